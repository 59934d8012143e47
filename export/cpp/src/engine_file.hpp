// Checks of the header of a TensorRT plan, without TensorRT and without a GPU; like hgfast/runtime/tensorrt_engine.py.
#pragma once

#include "sidecar.hpp"

namespace hgfast {

/// "TensorRT" or "TensorRT-RTX".
const char* library_name(Kind kind);

/// Check that a plan is complete, and for the library and version in the sidecar.
/// Throws Failure (bad_model, wrong_version).
void check_plan(const Artifact& artifact);

/// Check that a library of version major.minor.patch runs the plan. Throws Failure (wrong_version).
void check_library(const Artifact& artifact, int major, int minor, int patch);

}  // namespace hgfast
