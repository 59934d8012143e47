#include "process.hpp"

#include <filesystem>
#include <fstream>
#include <string>

namespace cli {

ResourceUsage resource_usage() {
    ResourceUsage usage;
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;)
        if (word == "VmRSS:") {
            status >> usage.memory_kb;
            break;
        }
    std::error_code error;
    for (std::filesystem::directory_iterator file("/proc/self/fd", error), end; !error && file != end; file.increment(error))
        ++usage.files;
    return usage;
}

}  // namespace cli
