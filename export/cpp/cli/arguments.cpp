#include "arguments.hpp"

#include <sstream>
#include <stdexcept>

namespace cli {

const char* const USAGE =
    "hgfast_cli MODEL IMAGE.jpg... [--box X,Y,WIDTH,HEIGHT]...\n"
    "Prints the keypoints, in pixels of the image, as one line of JSON per image.\n"
    "  --box X,Y,W,H      one person, may be repeated; none: the whole image\n"
    "  --padding P        side of the square divided by the longer side of the box; 1.25 for tight boxes\n"
    "  --raw W H          the files contain only W x H pixels of 8 bits\n"
    "  --channels N       of --raw: 1 gray, 3, 4\n"
    "  --bgr              of --raw: blue first\n"
    "  --backend NAME     automatic, openvino, tensorrt, tensorrt_rtx\n"
    "  --threads N        CPU threads\n"
    "  --device NAME      OpenVINO device name, or GPU index\n"
    "  --repeat N         run the first image N more times and print time, memory and open files\n";

namespace {

template <typename Value>
Value read(const std::string& flag, const std::string& word) {
    std::istringstream text(word);
    Value value{};
    if (!(text >> value) || text.peek() != std::istringstream::traits_type::eof())
        throw std::runtime_error(flag + " requires a number, not '" + word + "'");
    return value;
}

/// A number; also nan and inf, which the library refuses.
double real(const std::string& word) {
    std::size_t used = 0;
    double value = 0;
    try {
        value = std::stod(word, &used);
    } catch (const std::exception&) {
        used = 0;
    }
    if (used == 0 || used != word.size()) throw std::runtime_error("'" + word + "' is no number");
    return value;
}

hgfast::Box box(const std::string& word) {
    std::istringstream text(word);
    std::vector<double> values;
    for (std::string part; std::getline(text, part, ',');) values.push_back(real(part));
    if (values.size() != 4) throw std::runtime_error("--box requires X,Y,WIDTH,HEIGHT, not '" + word + "'");
    return {values[0], values[1], values[2], values[3]};
}

hgfast::Backend backend(const std::string& word) {
    using hgfast::Backend;
    for (const Backend one : {Backend::automatic, Backend::openvino, Backend::tensorrt, Backend::tensorrt_rtx})
        if (word == hgfast::name(one)) return one;
    throw std::runtime_error("there is no backend '" + word + "': automatic, openvino, tensorrt, tensorrt_rtx");
}

}  // namespace

Arguments parse(const std::vector<std::string>& words) {
    Arguments arguments;
    std::size_t at = 0;
    const auto next = [&](const std::string& flag) -> const std::string& {
        if (at == words.size()) throw std::runtime_error(flag + " requires a value");
        return words[at++];
    };
    while (at < words.size()) {
        const std::string word = words[at++];
        if (word == "--help" || word == "-h")
            arguments.help = true;
        else if (word == "--box")
            arguments.boxes.push_back(box(next(word)));
        else if (word == "--padding")
            arguments.options.padding = real(next(word));
        else if (word == "--raw")
            arguments.raw = true, arguments.raw_width = read<int>(word, next(word)), arguments.raw_height = read<int>(word, next(word));
        else if (word == "--channels")
            arguments.raw_channels = read<int>(word, next(word));
        else if (word == "--bgr")
            arguments.order = hgfast::Order::bgr;
        else if (word == "--backend")
            arguments.options.backend = backend(next(word));
        else if (word == "--threads")
            arguments.options.threads = read<int>(word, next(word));
        else if (word == "--device")
            arguments.options.device = next(word);
        else if (word == "--repeat")
            arguments.repeat = read<int>(word, next(word));
        else if (word.size() > 1 && word[0] == '-')
            throw std::runtime_error("there is no flag " + word + ", see --help");
        else if (arguments.model.empty())
            arguments.model = word;
        else
            arguments.images.push_back(word);
    }
    if (!arguments.help && arguments.images.empty()) throw std::runtime_error("a model and an image are required, see --help");
    return arguments;
}

}  // namespace cli
