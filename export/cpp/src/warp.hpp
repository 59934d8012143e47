// One crop of a picture as the network takes it: what hgfast.geometry.warp does, with the same rounding.
#pragma once

#include <cstdint>

#include "geometry.hpp"
#include "hgfast/hgfast.hpp"

namespace hgfast {

/// Fill `out` (size, size, 3), uint8 RGB, black outside the picture. A picture that is shrunk below three quarters is cut and
/// shrunk by a triangular filter first; then it is read with bilinear interpolation.
void warp(const Image& image, const InputFromSource& map, int size, std::uint8_t* out);

}  // namespace hgfast
