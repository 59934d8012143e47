// What the first bytes of a TensorRT plan tell without TensorRT and without a GPU; as hgfast/engine.py.
#pragma once

#include "sidecar.hpp"

namespace hgfast {

/// "TensorRT" or "TensorRT-RTX".
const char* library_name(Kind kind);

/// See that a plan is whole, for the library that the sidecar names, and of the version that the sidecar names.
/// Throws Failure (bad_model, wrong_version).
void check_plan(const Artefact& artefact);

/// See that a library of version major.minor.patch runs the plan. Throws Failure (wrong_version).
void check_library(const Artefact& artefact, int major, int minor, int patch);

}  // namespace hgfast
