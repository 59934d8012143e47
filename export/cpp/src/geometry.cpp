#include "geometry.hpp"

#include <algorithm>
#include <cmath>

#include "failure.hpp"

namespace hgfast {
namespace {

constexpr double MAX_BOX_SCALE = 100;  // maximum size of a box relative to the image; a larger one is a mistake
constexpr int MAX_SIDE = 1 << 20;      // pixels; float represents larger coordinates inexactly

std::string words(const Box& box) {
    return "the box " + number(box.x) + "," + number(box.y) + "," + number(box.width) + "," + number(box.height);
}

}  // namespace

void check_image(const Image& image) {
    const std::string size = std::to_string(image.width) + " x " + std::to_string(image.height);
    if (image.data == nullptr) throw Failure(Code::bad_image, "the image has no pixels: its data is null");
    if (image.width < 1 || image.height < 1 || image.width > MAX_SIDE || image.height > MAX_SIDE)
        throw Failure(Code::bad_image,
                      "an image of " + size + " pixels is not supported: each side must be 1 to " + std::to_string(MAX_SIDE));
    if (image.channels != 1 && image.channels != 3 && image.channels != 4)
        throw Failure(Code::bad_image,
                      "an image of " + std::to_string(image.channels) + " channels is not supported: give 1, 3 or 4");
    const std::size_t row = static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.channels);
    if (image.stride_bytes != 0 && image.stride_bytes < row)
        throw Failure(Code::bad_image, "rows " + std::to_string(image.stride_bytes) +
                                           " bytes apart are too close for an image of " + size + " pixels, which needs " +
                                           std::to_string(row) + " (or 0 for no gap)");
}

Square whole_square(const Image& image) {
    return {image.width / 2.0, image.height / 2.0, static_cast<double>(std::max(image.width, image.height))};
}

Square box_square(const Image& image, const Box& box, double padding) {
    const auto [x, y, w, h] = box;
    if (!std::isfinite(x) || !std::isfinite(y) || !std::isfinite(w) || !std::isfinite(h))
        throw Failure(Code::bad_box, words(box) + " is not finite: give x,y,width,height in pixels");
    if (w <= 0 || h <= 0) throw Failure(Code::bad_box, words(box) + " has no area: give x,y,width,height in pixels");
    const std::string extent =
        "the image of " + std::to_string(image.width) + " x " + std::to_string(image.height) + " pixels";
    if (std::max(w, h) * padding > MAX_BOX_SCALE * std::max(image.width, image.height))
        throw Failure(Code::bad_box, words(box) + " is more than " + number(MAX_BOX_SCALE) + " times as large as " + extent);
    if (x >= image.width || y >= image.height || x + w <= 0 || y + h <= 0)
        throw Failure(Code::bad_box, words(box) + " lies outside " + extent);
    return {x + w / 2, y + h / 2, std::max(w, h) * padding};
}

InputFromSource input_from_source(const Square& square, int size) {
    const double scale = size / square.side;
    const InputFromSource map = {scale, size / 2.0 - scale * square.x, size / 2.0 - scale * square.y};
    if (!(square.side > 1e-6) || !std::isfinite(map.x) || !std::isfinite(map.y))
        throw Failure(Code::bad_box,
                      "a square of " + number(square.side) + " pixels is too small: give x,y,width,height in pixels");
    return map;
}

}  // namespace hgfast
