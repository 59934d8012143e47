// The sidecar MODEL.json, see hgfast/runtime/sidecar.schema.json. Reading checks and bounds all values, so that a broken sidecar
// can do no harm later.
#pragma once

#include <array>
#include <cstddef>
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
    bool normalized = false;             ///< false: uint8 NHWC goes in; true: float32 NCHW, (rgb / 255 - mean) / std
    std::array<float, 3> mean{}, std{};  ///< of red, green, blue in [0, 1]
    int batch_min = 1, batch_opt = 1, batch_max = 1;
    double shift = 0;             ///< added to points after they are mapped to source pixels
    std::string builder_version;  ///< of an engine: version of the library that built it
    bool version_compatible = false;

    int joints() const { return static_cast<int>(skeleton->joints.size()); }
    /// Bytes of one crop in the network's input format.
    std::size_t crop_bytes() const {
        return std::size_t{3} * static_cast<std::size_t>(input_size) * static_cast<std::size_t>(input_size) *
               (normalized ? 4 : 1);
    }
};

/// Parse the text of a sidecar. path: for messages. Throws Failure (bad_sidecar).
Sidecar parse_sidecar(const std::string& text, const std::string& path);

/// A model's bytes and its sidecar, which belong together. Throws Failure (no_file, bad_sidecar, other_sidecar).
struct Artifact {
    std::string path;
    std::string bytes;
    Sidecar sidecar;
};
Artifact read_artifact(const std::string& path);


/// SHA-256 (FIPS 180-4) as 64 hexadecimal digits.
std::string sha256(const void* data, std::size_t size);

}  // namespace hgfast
