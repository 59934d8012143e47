// Keypoints of JPEGs on the command line. Exit codes: 0 success, 2 invalid input, 1 another failure.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>

#include "arguments.hpp"
#include "image_file.hpp"
#include "process.hpp"

namespace {

hgfast::Status predict(hgfast::Session& session, const cli::Arguments& arguments, const cli::LoadedImage& image,
                       hgfast::Result& out) {
    const hgfast::Image view = image.view(arguments.raw ? arguments.order : hgfast::Order::rgb);
    return arguments.boxes.empty() ? session.run(view, out) : session.run(view, arguments.boxes, out);
}

cli::LoadedImage read(const cli::Arguments& arguments, const std::string& path) {
    if (!arguments.raw) return cli::read_jpeg(path);
    return cli::read_raw(path, arguments.raw_width, arguments.raw_height, arguments.raw_channels);
}

int complain(const hgfast::Status& status) {
    std::cerr << "hgfast_cli: " << status.message << " [" << hgfast::name(status.code) << "]\n";
    return status.code == hgfast::Code::failed ? 1 : 2;
}

/// Warm up with a tenth of the runs, at least 100, then measure `repeat` runs.
hgfast::Status repeat(hgfast::Session& session, const cli::Arguments& arguments, const cli::LoadedImage& image) {
    using Clock = std::chrono::steady_clock;
    hgfast::Result result;
    hgfast::Status status;
    for (int i = 0; status && i < std::max(100, arguments.repeat / 10); ++i) status = predict(session, arguments, image, result);
    const cli::ResourceUsage before = cli::resource_usage();
    const auto start = Clock::now();
    for (int i = 0; status && i < arguments.repeat; ++i) status = predict(session, arguments, image, result);
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count() / arguments.repeat;
    const cli::ResourceUsage after = cli::resource_usage();
    std::cerr << "{\"runs\": " << arguments.repeat << ", \"ms\": " << ms
              << ", \"memory_growth_kb\": " << after.memory_kb - before.memory_kb << ", \"memory_kb\": " << after.memory_kb
              << ", \"files_before\": " << before.files << ", \"files_after\": " << after.files << "}\n";
    return status;
}

int work(const cli::Arguments& arguments) {
    hgfast::Session session;
    if (const auto status = hgfast::Session::load(arguments.model, arguments.options, session); !status) return complain(status);
    for (const std::string& path : arguments.images) {
        hgfast::Result people;
        if (const auto status = predict(session, arguments, read(arguments, path), people); !status) return complain(status);
        std::cout << people.to_json() << "\n";
    }
    if (arguments.repeat > 0) {
        std::cerr << session.about() << "\n";
        if (const auto status = repeat(session, arguments, read(arguments, arguments.images.front())); !status)
            return complain(status);
    }
    return 0;
}

}  // namespace

int main(int count, char** words) {
    try {
        const cli::Arguments arguments = cli::parse({words + 1, words + count});
        if (arguments.help) {
            std::cout << cli::USAGE;
            return 0;
        }
        return work(arguments);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "hgfast_cli: %s\n", error.what());
        return 2;
    }
}
