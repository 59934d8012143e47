// Images from files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hgfast/hgfast.hpp"

namespace cli {

/// Pixels (height, width, channels).
struct LoadedImage {
    std::vector<std::uint8_t> pixels;
    int width = 0, height = 0, channels = 3;

    hgfast::Image view(hgfast::Order order) const { return {pixels.data(), width, height, channels, 0, order}; }
};

/// The bytes of a file. Throws std::runtime_error.
std::string read_file(const std::string& path);

/// A file that contains only pixels. Throws std::runtime_error.
LoadedImage read_raw(const std::string& path, int width, int height, int channels);

/// A JPEG as RGB, rotated by its EXIF orientation. Throws std::runtime_error.
LoadedImage read_jpeg(const std::string& path);

/// Apply an EXIF orientation (1 to 8).
LoadedImage oriented(LoadedImage image, int orientation);

}  // namespace cli
