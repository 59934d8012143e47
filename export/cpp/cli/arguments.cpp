#include "arguments.hpp"

#include <sstream>
#include <stdexcept>

namespace cli {

const char* const USAGE =
    "hgfast_cli MODEL PICTURE.jpg... [--box X,Y,WIDTH,HEIGHT]...\n"
    "Prints the keypoints, in pixels of the picture, one line of JSON a picture.\n"
    "  --box X,Y,W,H      one person, may be repeated; none: the whole picture\n"
    "  --padding P        the square's side over the longer side of its box; 1.25 for tight boxes\n"
    "  --raw W H          the files are W x H pixels, 8 bits, and nothing else\n"
    "  --channels N       of --raw: 1 grey, 3, 4\n"
    "  --bgr              of --raw: blue first\n"
    "  --backend NAME     automatic, openvino, tensorrt, tensorrt_rtx\n"
    "  --threads N        of a CPU\n"
    "  --device NAME      OpenVINO's name of a device, or a GPU's number\n"
    "  --repeat N         run the first picture N times more and say what that cost in time, memory and open files\n";

namespace {

template <typename Value>
Value read(const std::string& flag, const std::string& word) {
    std::istringstream text(word);
    Value value{};
    if (!(text >> value) || text.peek() != std::istringstream::traits_type::eof())
        throw std::runtime_error(flag + " wants a number, not '" + word + "'");
    return value;
}

/// A number, or nan and inf, which the library then refuses by itself.
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
    if (values.size() != 4) throw std::runtime_error("--box wants X,Y,WIDTH,HEIGHT, not '" + word + "'");
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
    Arguments found;
    std::size_t at = 0;
    const auto next = [&](const std::string& flag) -> const std::string& {
        if (at == words.size()) throw std::runtime_error(flag + " wants a value");
        return words[at++];
    };
    while (at < words.size()) {
        const std::string word = words[at++];
        if (word == "--help" || word == "-h")
            found.help = true;
        else if (word == "--box")
            found.boxes.push_back(box(next(word)));
        else if (word == "--padding")
            found.options.padding = real(next(word));
        else if (word == "--raw")
            found.raw = true, found.raw_width = read<int>(word, next(word)), found.raw_height = read<int>(word, next(word));
        else if (word == "--channels")
            found.raw_channels = read<int>(word, next(word));
        else if (word == "--bgr")
            found.order = hgfast::Order::bgr;
        else if (word == "--backend")
            found.options.backend = backend(next(word));
        else if (word == "--threads")
            found.options.threads = read<int>(word, next(word));
        else if (word == "--device")
            found.options.device = next(word);
        else if (word == "--repeat")
            found.repeat = read<int>(word, next(word));
        else if (word.size() > 1 && word[0] == '-')
            throw std::runtime_error("there is no flag " + word + ", see --help");
        else if (found.model.empty())
            found.model = word;
        else
            found.pictures.push_back(word);
    }
    if (!found.help && found.pictures.empty()) throw std::runtime_error("a model and a picture are wanted, see --help");
    return found;
}

}  // namespace cli
