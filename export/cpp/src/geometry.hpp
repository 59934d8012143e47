// Which square of a picture the network looks at, and the map between the two; as hgfast/boxes.py and hgfast/geometry.py.
#pragma once

#include "hgfast/hgfast.hpp"

namespace hgfast {

/// A square of a picture: centre and side, pixels.
struct Square {
    double x = 0, y = 0, side = 0;
    Box box() const { return {x - side / 2, y - side / 2, side, side}; }
};

/// Points of the picture times `scale`, plus x, y, are points of the network's input.
struct InputFromSource {
    double scale = 1, x = 0, y = 0;
    double source_x(double input) const { return input * (1 / scale) - x / scale; }
    double source_y(double input) const { return input * (1 / scale) - y / scale; }
};

/// Throws Failure (bad_image) unless the picture has pixels that can be read.
void check_image(const Image& image);

/// The whole picture, which is not padded.
Square whole_square(const Image& image);

/// A box's square, `padding` times its longer side. Throws Failure (bad_box).
Square box_square(const Image& image, const Box& box, double padding);

/// The map of a square to an input of `size` pixels. Throws Failure (bad_box) for a square that is too small for numbers.
InputFromSource input_from_source(const Square& square, int size);

}  // namespace hgfast
