// SHA-256 (FIPS 180-4), to check that a sidecar belongs to a file.
#pragma once

#include <cstddef>
#include <string>

namespace hgfast {

/// 64 hexadecimal digits.
std::string sha256(const void* data, std::size_t size);

}  // namespace hgfast
