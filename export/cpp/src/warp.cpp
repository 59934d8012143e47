#include "warp.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace hgfast {
namespace {

constexpr double SHRINK_BELOW = 0.75;  // input pixels per source pixel; below, interpolation alone would skip source pixels
constexpr float EPSILON = 1e-2F;       // in shrunk pixels: a narrower rest at the end of a region is a rounding error

/// Reads the pixels of an image as RGB.
class Pixels {
public:
    explicit Pixels(const Image& image)
        : data_(image.data),
          channels_(static_cast<std::size_t>(image.channels)),
          stride_(image.stride_bytes != 0 ? image.stride_bytes : channels_ * static_cast<std::size_t>(image.width)) {
        if (channels_ != 1)
            offsets_ = image.order == Order::bgr ? std::array<std::size_t, 3>{2, 1, 0} : std::array<std::size_t, 3>{0, 1, 2};
    }
    /// Copy `count` pixels of row y from column x on to `out` (count, 3).
    template <typename Value>
    void row(std::size_t y, std::size_t x, std::size_t count, Value* out) const {
        const std::uint8_t* pixel = data_ + y * stride_ + x * channels_;
        for (std::size_t i = 0; i < count; ++i, pixel += channels_, out += 3)
            for (std::size_t c = 0; c < 3; ++c) out[c] = static_cast<Value>(pixel[offsets_[c]]);
    }

private:
    const std::uint8_t* data_;
    std::size_t channels_, stride_;
    std::array<std::size_t, 3> offsets_{};  // of red, green and blue in a pixel
};

/// RGB pixels (height, width, 3) of a region of the image. Along each axis, source = scale * part + begin.
struct Part {
    std::vector<std::uint8_t> pixels;
    std::size_t width = 0, height = 0;
    double scale = 1;
    std::array<double, 2> begin{};
};

/// One axis of the region that the input shows, and of its grid of shrunk pixels. Single precision, as in hgfast.geometry.
struct Axis {
    float low, high;    // region, not clipped to the image
    float start, end;   // whole source pixels to crop
    float begin;        // start of the shrunk grid
    std::size_t count;  // number of shrunk pixels

    Axis(double scale, double shift, int size, int pixels, float ratio) {
        const double one = 0 * (1 / scale) - shift / scale, other = size * (1 / scale) - shift / scale;
        low = static_cast<float>(std::min(one, other)), high = static_cast<float>(std::max(one, other));
        const auto limit = static_cast<float>(pixels);
        start = std::clamp(std::floor(low), 0.0F, limit - 1);
        end = std::min(std::max(std::ceil(high), start + 1), limit);
        float first = std::floor((start - low) * ratio + EPSILON);
        if (low < end) first = std::max(0.0F, first);  // an image outside the region stays outside
        const float last = std::ceil((std::min(high, end) - low) * ratio - EPSILON);
        count = static_cast<std::size_t>(std::clamp(last - first, 1.0F, static_cast<float>(2 * size + 2)));
        begin = low + first / ratio;
    }
    std::size_t from() const { return static_cast<std::size_t>(start); }
    std::size_t pixels() const { return static_cast<std::size_t>(end - start); }
};

/// Weights of the source pixels from `first` on for one shrunk pixel.
struct Weights {
    std::size_t first = 0;
    std::vector<float> values;
};

/// Triangular filters around the centers of the shrunk pixels; border pixels are repeated.
std::vector<Weights> triangles(const Axis& axis, float ratio) {
    const float support = 1 / ratio;
    const auto pixels = static_cast<std::ptrdiff_t>(axis.pixels());
    const double begin = static_cast<double>(axis.begin - axis.start);
    std::vector<Weights> all(axis.count);
    std::vector<double> found;
    for (std::size_t i = 0; i < axis.count; ++i) {
        const double center = begin + (static_cast<double>(i) + 0.5) * static_cast<double>(support);
        const auto from = static_cast<std::ptrdiff_t>(std::floor(center - static_cast<double>(support)));
        const auto to = static_cast<std::ptrdiff_t>(std::ceil(center + static_cast<double>(support)));
        const auto inside = [&](std::ptrdiff_t cell) { return std::clamp<std::ptrdiff_t>(cell, 0, pixels - 1); };
        const std::ptrdiff_t first = inside(from), last = inside(to - 1);
        found.assign(static_cast<std::size_t>(last - first + 1), 0.0);
        double sum = 0;
        for (std::ptrdiff_t cell = from; cell < to; ++cell) {
            const double distance = std::abs(static_cast<double>(cell) + 0.5 - center);
            const double weight = std::max(0.0, 1 - distance / static_cast<double>(support));
            found[static_cast<std::size_t>(inside(cell) - first)] += weight;
            sum += weight;
        }
        all[i].first = static_cast<std::size_t>(first);
        for (const double weight : found) all[i].values.push_back(static_cast<float>(weight / sum));
    }
    return all;
}

/// a * b + c, rounded once as in numpy and OpenCV: the product of two floats is exact in double.
float fused(float a, float b, float c) {
    return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c));
}

std::uint8_t to_byte(float value) { return static_cast<std::uint8_t>(std::clamp(std::lrintf(value), 0L, 255L)); }

/// Crop at whole pixels, so that pixels outside the region have no effect.
Part crop(const Pixels& pixels, const Axis& across, const Axis& down) {
    Part part;
    part.width = across.pixels(), part.height = down.pixels();
    part.begin = {across.start, down.start};
    part.pixels.resize(part.width * part.height * 3);
    for (std::size_t y = 0; y < part.height; ++y)
        pixels.row(down.from() + y, across.from(), part.width, &part.pixels[y * part.width * 3]);
    return part;
}

/// Crop and downscale: first along columns, then along rows.
Part shrink(const Pixels& pixels, const Axis& across, const Axis& down, float ratio) {
    Part part;
    part.width = across.count, part.height = down.count;
    part.scale = static_cast<double>(1 / ratio);
    part.begin = {across.begin, down.begin};
    part.pixels.resize(part.width * part.height * 3);
    const std::vector<Weights> columns = triangles(across, ratio), rows = triangles(down, ratio);
    const std::size_t width = across.pixels();
    std::vector<float> row(width * 3), sum(width * 3);
    for (std::size_t y = 0; y < part.height; ++y) {
        std::fill(sum.begin(), sum.end(), 0.0F);
        for (std::size_t k = 0; k < rows[y].values.size(); ++k) {
            const float weight = rows[y].values[k];
            if (weight == 0) continue;
            pixels.row(down.from() + rows[y].first + k, across.from(), width, row.data());
            for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = fused(weight, row[i], sum[i]);
        }
        std::uint8_t* out = &part.pixels[y * part.width * 3];
        for (std::size_t x = 0; x < part.width; ++x) {
            std::array<float, 3> color{};
            const float* from = &sum[columns[x].first * 3];
            for (std::size_t k = 0; k < columns[x].values.size(); ++k)
                for (std::size_t c = 0; c < 3; ++c) color[c] = fused(columns[x].values[k], from[3 * k + c], color[c]);
            for (std::size_t c = 0; c < 3; ++c) out[3 * x + c] = to_byte(color[c]);
        }
    }
    return part;
}

/// Position of a column or row of the input in a part: between pixels `index` and `index` + 1.
struct Tap {
    std::ptrdiff_t index;
    float weight;  // of the second pixel
};

Tap tap(float position) {
    if (!(std::abs(position) < 1e9F)) return {-2, 0};  // outside every part
    const float floor = std::floor(position);
    return {static_cast<std::ptrdiff_t>(floor), position - floor};
}

/// Like warpAffine of OpenCV 4.12 and 5 with INTER_LINEAR: single precision, fused multiply-adds, black outside.
void interpolate(const Part& part, const InputFromSource& map, int size, std::uint8_t* out) {
    // map from the part's pixel centers to the input's, inverted like in OpenCV
    const double scale = map.scale * part.scale;
    const double inverse = scale * (1 / (scale * scale));
    std::array<float, 2> shift{};
    const std::array<double, 2> offset = {map.x, map.y};
    for (std::size_t i = 0; i < 2; ++i)
        shift[i] = static_cast<float>(-inverse * (0.5 * scale + (map.scale * part.begin[i] + offset[i] - 0.5)));
    const auto step = static_cast<float>(inverse);
    const auto count = static_cast<std::size_t>(size);
    std::vector<Tap> across(count), down(count);
    for (std::size_t i = 0; i < count; ++i) {
        const auto at = static_cast<float>(i);
        across[i] = tap(fused(step, at, shift[0]));
        down[i] = tap(step * at + shift[1]);
    }
    const auto width = static_cast<std::ptrdiff_t>(part.width), height = static_cast<std::ptrdiff_t>(part.height);
    const auto pixel = [&](std::ptrdiff_t y, std::ptrdiff_t x) -> const std::uint8_t* {
        static constexpr std::array<std::uint8_t, 3> BLACK{};
        if (x < 0 || y < 0 || x >= width || y >= height) return BLACK.data();
        return &part.pixels[static_cast<std::size_t>((y * width + x) * 3)];
    };
    for (const Tap& row : down)
        for (const Tap& column : across) {
            const std::uint8_t *p00 = pixel(row.index, column.index), *p01 = pixel(row.index, column.index + 1);
            const std::uint8_t *p10 = pixel(row.index + 1, column.index), *p11 = pixel(row.index + 1, column.index + 1);
            for (std::size_t c = 0; c < 3; ++c) {
                const auto upper = fused(column.weight, static_cast<float>(p01[c] - p00[c]), p00[c]);
                const auto lower = fused(column.weight, static_cast<float>(p11[c] - p10[c]), p10[c]);
                *out++ = to_byte(fused(row.weight, lower - upper, upper));
            }
        }
}

}  // namespace

void warp(const Image& image, const InputFromSource& map, int size, std::uint8_t* out) {
    const double zoom = std::sqrt(map.scale * map.scale);
    const float ratio = zoom < SHRINK_BELOW ? static_cast<float>(zoom) : 1.0F;
    const Axis across(map.scale, map.x, size, image.width, ratio), down(map.scale, map.y, size, image.height, ratio);
    const Pixels pixels(image);
    interpolate(ratio == 1.0F ? crop(pixels, across, down) : shrink(pixels, across, down, ratio), map, size, out);
}

}  // namespace hgfast
