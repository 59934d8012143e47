#include "engine_file.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "failure.hpp"

namespace hgfast {
namespace {

constexpr std::size_t HEADER = 64, SIZE_AT = 16, VERSION_AT = 24;  // bytes
constexpr const char *TENSORRT_MAGIC = "ftrt", *RTX_MAGIC = "vtrt";

std::uint8_t byte(const std::string& plan, std::size_t at) { return static_cast<std::uint8_t>(plan[at]); }

/// The numbers of a version up to the first part that is not a number, at most four.
std::vector<int> numbers(const std::string& version) {
    std::vector<int> numbers;
    std::size_t at = 0;
    while (numbers.size() < 4 && at < version.size()) {
        const std::size_t end = std::min(version.find('.', at), version.size());
        const std::string part = version.substr(at, end - at);
        if (part.empty() || part.size() > 6 || part.find_first_not_of("0123456789") != std::string::npos) break;
        numbers.push_back(std::stoi(part));
        at = end + 1;
    }
    return numbers;
}

std::string dotted(const std::vector<int>& version) {
    std::string text;
    for (const int part : version) text += (text.empty() ? "" : ".") + std::to_string(part);
    return text;
}

}  // namespace

const char* library_name(Kind kind) { return kind == Kind::tensorrt_rtx ? "TensorRT-RTX" : "TensorRT"; }

void check_plan(const Artifact& artifact) {
    const std::string& plan = artifact.bytes;
    const Kind kind = artifact.sidecar.kind;
    const std::string magic = plan.substr(0, 4), wanted = kind == Kind::tensorrt_rtx ? RTX_MAGIC : TENSORRT_MAGIC;
    const std::string name = library_name(kind);
    if (plan.size() < HEADER || (magic != TENSORRT_MAGIC && magic != RTX_MAGIC))
        throw Failure(Code::bad_model, artifact.path + " is not a " + name +
                                           " engine, judging by its first bytes: copy it again or build it again");
    if (magic != wanted)
        throw Failure(Code::bad_model, artifact.path + " is an engine of " +
                                           library_name(kind == Kind::tensorrt ? Kind::tensorrt_rtx : Kind::tensorrt) +
                                           ", not of " + name + ": build it again");
    if (kind == Kind::tensorrt_rtx) {
        std::uint64_t size = 0;
        for (std::size_t i = 8; i-- > 0;) size = size << 8 | byte(plan, SIZE_AT + i);
        if (size != plan.size())
            throw Failure(Code::bad_model, artifact.path + " has " + std::to_string(plan.size()) +
                                               " bytes where its header says " + std::to_string(size) +
                                               ": copy it again or build it again");
    }
    const std::vector<int> built = numbers(artifact.sidecar.builder_version);
    std::vector<int> header_version;
    for (std::size_t i = 0; i < 4; ++i) header_version.push_back(byte(plan, VERSION_AT + i));
    for (std::size_t i = 0; i < built.size(); ++i)
        if (built[i] % 256 != header_version[i])
            throw Failure(Code::wrong_version, artifact.path + " was built by " + name + " " + dotted(header_version) +
                                                   " according to its header, but its sidecar says " +
                                                   one_line(artifact.sidecar.builder_version) + ": build it again");
}

void check_library(const Artifact& artifact, int major, int minor, int patch) {
    std::vector<int> built = numbers(artifact.sidecar.builder_version);
    const std::vector<int> here = {major, minor, patch};
    built.resize(std::min(built.size(), here.size()));
    const std::vector<int> same(here.begin(), here.begin() + static_cast<std::ptrdiff_t>(built.size()));
    if (same == built || (artifact.sidecar.version_compatible && same >= built)) return;
    const std::string name = library_name(artifact.sidecar.kind);
    throw Failure(Code::wrong_version, artifact.path + " was built by " + name + " " +
                                           one_line(artifact.sidecar.builder_version) + " and " + dotted(here) +
                                           " is here, which does not run it: build it again with that");
}

}  // namespace hgfast
