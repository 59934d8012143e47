// Interface of the backends: crops in, keypoints out. Each backend has one file; the build selects them.
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

    /// Buffer for `count` crops of Sidecar::crop_bytes() each, in the format of the sidecar's input. It is valid until the next
    /// call. Throws Failure.
    virtual void* input(int count) = 0;
    /// Run on the content of `input(count)`. Keypoints (count, K, 3): x, y in input pixels and score; valid until the next call.
    /// Throws Failure.
    virtual const float* run(int count) = 0;
    virtual std::string about() const = 0;
};

/// Throw Failure: bad_model, no_device, wrong_version, failed.
std::unique_ptr<Runner> open_openvino(const Artifact& artifact, const Options& options);
std::unique_ptr<Runner> open_tensorrt(const Artifact& artifact, const Options& options);

}  // namespace hgfast
