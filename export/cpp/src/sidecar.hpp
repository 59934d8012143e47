// What lies beside a model as MODEL.json, see hgfast/sidecar.schema.json: read, checked and bounded, so that nothing that a
// broken one says can do harm later.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "hgfast/hgfast.hpp"

namespace hgfast {

enum class Kind { onnx, torchscript, tensorrt, tensorrt_rtx };

struct Sidecar {
    Kind kind = Kind::onnx;
    std::string sha256;  ///< of the model, hexadecimal
    std::shared_ptr<const Skeleton> skeleton;
    std::string input;                   ///< the input's name
    int input_size = 0;                  ///< side of the square input, pixels
    bool normalised = false;             ///< false: uint8 NHWC goes in; true: float32 NCHW, (rgb / 255 - mean) / std
    std::array<float, 3> mean{}, std{};  ///< of red, green, blue in [0, 1]
    int batch_min = 1, batch_opt = 1, batch_max = 1;
    double shift = 0;             ///< added to points once they are back in source pixels
    std::string builder_version;  ///< of an engine: the library's that built it
    bool version_compatible = false;

    int joints() const { return static_cast<int>(skeleton->joints.size()); }
    /// Bytes of one crop as the network takes it.
    std::size_t crop_bytes() const {
        return std::size_t{3} * static_cast<std::size_t>(input_size) * static_cast<std::size_t>(input_size) *
               (normalised ? 4 : 1);
    }
};

/// From the text of a sidecar. `path` it has, for messages. Throws Failure (bad_sidecar).
Sidecar parse_sidecar(const std::string& text, const std::string& path);

/// A model's bytes and its sidecar, which belong together. Throws Failure (no_file, bad_sidecar, other_sidecar).
struct Artefact {
    std::string path;
    std::string bytes;
    Sidecar sidecar;
};
Artefact read_artefact(const std::string& path);

}  // namespace hgfast
