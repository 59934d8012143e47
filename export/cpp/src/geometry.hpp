// Square crops of an image and their maps to the input; like hgfast/runtime/boxes.py and hgfast/geometry.py.
#pragma once

#include "hgfast/hgfast.hpp"

namespace hgfast {

/// A square of an image: center and side, pixels.
struct Square {
    double x = 0, y = 0, side = 0;
    Box box() const { return {x - side / 2, y - side / 2, side, side}; }
};

/// Map from the image to the network's input: point * scale + (x, y).
struct InputFromSource {
    double scale = 1, x = 0, y = 0;
    double source_x(double input) const { return input * (1 / scale) - x / scale; }
    double source_y(double input) const { return input * (1 / scale) - y / scale; }
};

/// Throws Failure (bad_image) unless the image is valid.
void check_image(const Image& image);

/// The whole image, which is not padded.
Square whole_square(const Image& image);

/// A box's square, `padding` times its longer side. Throws Failure (bad_box).
Square box_square(const Image& image, const Box& box, double padding);

/// The map of a square to an input of `size` pixels. Throws Failure (bad_box) for a square that is too small for numbers.
InputFromSource input_from_source(const Square& square, int size);

}  // namespace hgfast
