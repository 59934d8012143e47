// What this process holds of the machine.
#pragma once

#include <cstddef>

namespace cli {

struct Held {
    long memory_kb = 0;     ///< resident
    std::size_t files = 0;  ///< open descriptors
};

/// From /proc; zeros where there is none.
Held held();

}  // namespace cli
