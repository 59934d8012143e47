// How the inside of the library reports: exceptions, which session.cpp turns into a Status.
#pragma once

#include <stdexcept>
#include <string>

#include "hgfast/hgfast.hpp"

namespace hgfast {

struct Failure : std::runtime_error {
    Failure(Code kind, const std::string& message) : std::runtime_error(message), code(kind) {}
    Code code;
};

/// A number as "%g" has it.
std::string number(double value);

/// A message of some library, which may go on for pages, in one line of at most 300 letters.
std::string one_line(const std::string& text);

}  // namespace hgfast
