#include "failure.hpp"

#include <array>
#include <cstddef>
#include <cstdio>

namespace hgfast {

std::string number(double value) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%g", value);
    return text.data();
}

std::string one_line(const std::string& text) {
    std::string line;
    for (const char letter : text) {
        const bool blank = static_cast<unsigned char>(letter) <= ' ';
        if (!blank)
            line += letter;
        else if (!line.empty() && line.back() != ' ')
            line += ' ';
        if (line.size() == 300) return line.substr(0, 297) + "...";
    }
    return line;
}

const char* name(Code code) noexcept {
    constexpr std::array NAMES = {"ok",          "bad_option",    "bad_image", "bad_box",       "no_file",
                                  "bad_sidecar", "other_sidecar", "bad_model", "wrong_version", "not_built",
                                  "no_device",   "closed",        "failed"};
    const auto index = static_cast<std::size_t>(code);
    return index < NAMES.size() ? NAMES[index] : "unknown";
}

void Status::or_throw() const {
    if (!ok()) throw std::runtime_error(message);
}

}  // namespace hgfast
