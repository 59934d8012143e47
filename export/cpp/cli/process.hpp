// Memory and open files of this process.
#pragma once

#include <cstddef>

namespace cli {

struct ResourceUsage {
    long memory_kb = 0;     ///< resident
    std::size_t files = 0;  ///< open descriptors
};

/// Read from /proc; zeros if it does not exist.
ResourceUsage resource_usage();

}  // namespace cli
