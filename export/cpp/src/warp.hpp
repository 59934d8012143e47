// Crop an image for the network, with the same result as hgfast.geometry.warp.
#pragma once

#include <cstdint>

#include "geometry.hpp"
#include "hgfast/hgfast.hpp"

namespace hgfast {

/// Fill `out` (size, size, 3), uint8 RGB, black outside the image. An image that is shrunk below three quarters is cropped and
/// downscaled by a triangular filter first; then it is resampled bilinearly.
void warp(const Image& image, const InputFromSource& map, int size, std::uint8_t* out);

}  // namespace hgfast
