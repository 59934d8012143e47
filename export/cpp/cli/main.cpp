// hgfast_cli: keypoints of JPEGs on the command line. Exit codes: 0 success, 2 invalid input, 1 another failure.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "image_file.hpp"

namespace {

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
    "  --device NAME      of ONNX files, OpenVINO's device, by default CPU; of engines, the index of a GPU\n"
    "  --repeat N         run the first image N more times and print time, memory and open files\n";

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

/// Parse a number; also nan and inf, which the library refuses.
double real(const std::string& word) {
    std::size_t used = 0;
    double value = 0;
    try {
        value = std::stod(word, &used);
    } catch (const std::exception&) {
        used = 0;
    }
    if (used == 0 || used != word.size()) throw std::runtime_error("'" + word + "' is not a number");
    return value;
}

int whole(const std::string& word) {
    const double value = real(word);
    if (!(std::abs(value) < 1e9) || value != std::trunc(value)) throw std::runtime_error("'" + word + "' is not a whole number");
    return static_cast<int>(value);
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

/// Throws std::runtime_error with one sentence.
Arguments parse(const std::vector<std::string>& words) {
    Arguments arguments;
    std::size_t at = 0;
    while (at < words.size()) {
        const std::string word = words[at++];
        const auto next = [&]() -> const std::string& {
            if (at == words.size()) throw std::runtime_error(word + " requires a value");
            return words[at++];
        };
        if (word == "--help" || word == "-h")
            arguments.help = true;
        else if (word == "--box")
            arguments.boxes.push_back(box(next()));
        else if (word == "--padding")
            arguments.options.padding = real(next());
        else if (word == "--raw")
            arguments.raw = true, arguments.raw_width = whole(next()), arguments.raw_height = whole(next());
        else if (word == "--channels")
            arguments.raw_channels = whole(next());
        else if (word == "--bgr")
            arguments.order = hgfast::Order::bgr;
        else if (word == "--backend")
            arguments.options.backend = backend(next());
        else if (word == "--threads")
            arguments.options.threads = whole(next());
        else if (word == "--device")
            arguments.options.device = next();
        else if (word == "--repeat")
            arguments.repeat = whole(next());
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

hgfast::Status predict(hgfast::Session& session, const Arguments& arguments, const cli::LoadedImage& image, hgfast::Result& out) {
    const hgfast::Image view = image.view(arguments.raw ? arguments.order : hgfast::Order::rgb);
    return arguments.boxes.empty() ? session.run(view, out) : session.run(view, arguments.boxes, out);
}

cli::LoadedImage read(const Arguments& arguments, const std::string& path) {
    if (!arguments.raw) return cli::read_jpeg(path);
    return cli::read_raw(path, arguments.raw_width, arguments.raw_height, arguments.raw_channels);
}

/// Print text to standard output at once. Throws std::system_error.
void print(const std::string& text) {
    errno = 0;
    if (!(std::cout << text << std::flush)) throw std::system_error(errno, std::generic_category(), "cannot write the output");
}

/// Print an error, with escapes in place of control characters, which file names may contain. Returns the exit code.
int fail(const std::string& message, int code) {
    std::string text;
    for (const char letter : message) {
        const auto byte = static_cast<unsigned char>(letter);
        if (byte >= ' ' && byte != 0x7F)
            text += letter;
        else
            text += {'\\', 'x', "0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]};
    }
    std::fprintf(stderr, "hgfast_cli: %s\n", text.c_str());
    return code;
}

int report(const hgfast::Status& status) {
    return fail(status.message + " [" + hgfast::name(status.code) + "]", status.code == hgfast::Code::failed ? 1 : 2);
}

/// Resident memory of this process; 0 without /proc.
long memory_kb() {
    std::ifstream status("/proc/self/status");
    long kb = 0;
    for (std::string word; status >> word;)
        if (word == "VmRSS:" && status >> kb) break;
    return kb;
}

/// Number of open files of this process; 0 without /proc.
std::ptrdiff_t open_files() {
    std::error_code error;
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd", error), {});
}

/// Warm up with a tenth of the runs, at least 100, then measure `repeat` runs.
hgfast::Status repeat(hgfast::Session& session, const Arguments& arguments, const cli::LoadedImage& image) {
    using Clock = std::chrono::steady_clock;
    hgfast::Result result;
    hgfast::Status status;
    for (int i = 0; status && i < std::max(100, arguments.repeat / 10); ++i) status = predict(session, arguments, image, result);
    const long memory_before = memory_kb();
    const auto files_before = open_files();
    const auto start = Clock::now();
    for (int i = 0; status && i < arguments.repeat; ++i) status = predict(session, arguments, image, result);
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count() / arguments.repeat;
    const long memory = memory_kb();
    std::cerr << "{\"runs\": " << arguments.repeat << ", \"ms\": " << ms << ", \"memory_growth_kb\": " << memory - memory_before
              << ", \"memory_kb\": " << memory << ", \"files_before\": " << files_before << ", \"files_after\": " << open_files()
              << "}\n";
    return status;
}

int run(const Arguments& arguments) {
    hgfast::Session session;
    if (const auto status = hgfast::Session::load(arguments.model, arguments.options, session); !status) return report(status);
    for (const std::string& path : arguments.images) {
        hgfast::Result people;
        if (const auto status = predict(session, arguments, read(arguments, path), people); !status) return report(status);
        print(people.to_json() + "\n");
    }
    if (arguments.repeat > 0) {
        std::cerr << session.about() << "\n";
        const auto status = repeat(session, arguments, read(arguments, arguments.images.front()));
        if (!status) return report(status);
    }
    return 0;
}

}  // namespace

int main(int count, char** words) {
    std::signal(SIGPIPE, SIG_IGN);  // a reader that ended is an error of the next write
    try {
        if (fcntl(1, F_GETFD) == -1) throw std::system_error(errno, std::generic_category(), "cannot write the output");
        const Arguments arguments = parse({words + 1, words + count});
        if (!arguments.help) return run(arguments);
        print(USAGE);
        return 0;
    } catch (const std::system_error& error) {
        return fail(error.what(), 1);
    } catch (const std::bad_alloc&) {
        return fail("memory ran out", 1);
    } catch (const std::exception& error) {
        return fail(error.what(), 2);
    }
}
