// Command line of hgfast_cli.
#pragma once

#include <string>
#include <vector>

#include "hgfast/hgfast.hpp"

namespace cli {

struct Arguments {
    std::string model;
    std::vector<std::string> images;
    bool raw = false;                                     ///< the files contain only pixels; else they are JPEG
    int raw_width = 0, raw_height = 0, raw_channels = 3;  ///< of raw files
    std::vector<hgfast::Box> boxes;                       ///< none: the whole image
    hgfast::Options options;
    hgfast::Order order = hgfast::Order::rgb;
    int repeat = 0;
    bool help = false;
};

extern const char* const USAGE;

/// Throws std::runtime_error with one sentence.
Arguments parse(const std::vector<std::string>& words);

}  // namespace cli
