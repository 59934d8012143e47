#include "failure.hpp"

#include <array>
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
    switch (code) {
        case Code::ok: return "ok";
        case Code::bad_option: return "bad_option";
        case Code::bad_image: return "bad_image";
        case Code::bad_box: return "bad_box";
        case Code::no_file: return "no_file";
        case Code::bad_sidecar: return "bad_sidecar";
        case Code::other_sidecar: return "other_sidecar";
        case Code::bad_model: return "bad_model";
        case Code::wrong_version: return "wrong_version";
        case Code::not_built: return "not_built";
        case Code::no_device: return "no_device";
        case Code::closed: return "closed";
        case Code::failed: return "failed";
    }
    return "unknown";
}

void Status::or_throw() const {
    if (!ok()) throw std::runtime_error(message);
}

}  // namespace hgfast
