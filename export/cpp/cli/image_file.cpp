#include "image_file.hpp"

#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace cli {

std::string read_file(const std::string& path) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) throw std::runtime_error("there is no file " + path);
    std::ifstream file(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (!file) throw std::runtime_error(path + " cannot be read");
    return bytes;
}

LoadedImage read_raw(const std::string& path, int width, int height, int channels) {
    if (width < 1 || height < 1 || width > 65535 || height > 65535)
        throw std::runtime_error("--raw requires a width and height from 1 to 65535");
    if (channels != 1 && channels != 3 && channels != 4) throw std::runtime_error("--channels requires 1, 3 or 4");
    const std::string bytes = read_file(path);
    const std::size_t wanted =
        static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * static_cast<std::size_t>(channels);
    if (bytes.size() != wanted)
        throw std::runtime_error(path + " has " + std::to_string(bytes.size()) + " bytes, and " + std::to_string(width) + " x " +
                                 std::to_string(height) + " x " + std::to_string(channels) + " are " + std::to_string(wanted));
    return {{bytes.begin(), bytes.end()}, width, height, channels};
}

LoadedImage oriented(LoadedImage image, int orientation) {
    if (orientation < 2 || orientation > 8) return image;
    const bool turned = orientation > 4;
    const int w = image.width, h = image.height;
    LoadedImage out{std::vector<std::uint8_t>(image.pixels.size()), turned ? h : w, turned ? w : h, image.channels};
    const bool mirror = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    const bool flip = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    const auto channels = static_cast<std::size_t>(image.channels);
    for (int y = 0; y < out.height; ++y)
        for (int x = 0; x < out.width; ++x) {
            // across and down the stored image
            const int along = turned ? y : x, across = turned ? x : y;
            const int from_x = mirror ? w - 1 - along : along, from_y = flip ? h - 1 - across : across;
            const std::size_t from =
                (static_cast<std::size_t>(from_y) * static_cast<std::size_t>(w) + static_cast<std::size_t>(from_x)) * channels;
            const std::size_t to =
                (static_cast<std::size_t>(y) * static_cast<std::size_t>(out.width) + static_cast<std::size_t>(x)) * channels;
            for (std::size_t c = 0; c < channels; ++c) out.pixels[to + c] = image.pixels[from + c];
        }
    return out;
}

#if !defined(HGFAST_WITH_JPEG)
LoadedImage read_jpeg(const std::string& path) {
    throw std::runtime_error(path + " cannot be read: this hgfast_cli was built without libjpeg and takes --raw pixels only");
}
#endif

}  // namespace cli
