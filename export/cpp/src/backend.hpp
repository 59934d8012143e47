// What runs a network: crops in, keypoints out. One file for each backend; which are there is decided when the library is built.
#pragma once

#include <memory>
#include <string>

#include "hgfast/hgfast.hpp"
#include "sidecar.hpp"

namespace hgfast {

class Runner {
public:
    Runner() = default;
    virtual ~Runner() = default;
    Runner(const Runner&) = delete;
    Runner& operator=(const Runner&) = delete;

    /// Where the crops of a batch of `count` go, each Sidecar::crop_bytes() long, as the sidecar's input has it. It stays valid
    /// until the next call. Throws Failure.
    virtual void* input(int count) = 0;
    /// Run on what `input(count)` was filled with. Keypoints (count, K, 3): x, y in input pixels and score; they stay valid
    /// until the next call. Throws Failure.
    virtual const float* run(int count) = 0;
    virtual std::string about() const = 0;
};

/// Throw Failure: bad_model, no_device, wrong_version, failed.
std::unique_ptr<Runner> open_openvino(const Artefact& artefact, const Options& options);
std::unique_ptr<Runner> open_tensorrt(const Artefact& artefact, const Options& options);

}  // namespace hgfast
