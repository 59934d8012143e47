// Internal exceptions, which session.cpp converts to a Status.
#pragma once

#include <stdexcept>
#include <string>

#include "hgfast/hgfast.hpp"

namespace hgfast {

struct Failure : std::runtime_error {
    Failure(Code kind, const std::string& message) : std::runtime_error(message), code(kind) {}
    Code code;
};

/// Format a number with "%g".
std::string number(double value);

/// Shorten a message of a library to one line of at most 300 characters.
std::string one_line(const std::string& text);

}  // namespace hgfast
