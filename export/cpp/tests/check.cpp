// Checks of the library's internal functions, for the tests.
//
//     hgfast_check crop SIZE WIDTH HEIGHT CHANNELS PIXELS OUT X Y SIDE   write the crop of a square, (SIZE, SIZE, 3), to OUT
//     hgfast_check fuzz MODEL FOLDER COUNT SEED                          load COUNT broken copies of a model and its sidecar
//     hgfast_check stream MODEL                                          load a model with a CUDA stream, and print the status
//     hgfast_check threads MODEL COUNT                                   threads that share a session, beside some with their own
//
// fuzz writes each copy to FOLDER, loads it, and runs it if it loads; it prints the number of each status as a line of JSON.
// threads runs COUNT images in each of eight threads; an error is a result that differs from that of one thread.
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "failure.hpp"
#include "hgfast/hgfast.hpp"
#include "sidecar.hpp"
#include "warp.hpp"

namespace {

using nlohmann::json;
using Random = std::mt19937_64;

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write(const std::string& path, const std::string& bytes) {
    std::ofstream file(path, std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!file) throw std::runtime_error("cannot write " + path);
}

std::size_t below(Random& random, std::size_t end) { return std::uniform_int_distribution<std::size_t>(0, end - 1)(random); }

/// Change, drop, double or cut off bytes among the first `reach`.
void mangle(std::string& bytes, std::size_t reach, Random& random) {
    for (std::size_t i = 0, n = 1 + below(random, 6); i < n && !bytes.empty(); ++i) {
        const std::size_t at = below(random, std::min(reach, bytes.size()));
        switch (below(random, 6)) {
            case 0: bytes[at] = static_cast<char>(below(random, 256)); break;
            case 1: bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(random, 8))); break;
            case 2: bytes.erase(at, 1 + below(random, 40)); break;
            case 3: bytes.insert(at, bytes.substr(at, 1 + below(random, 40))); break;
            case 4: bytes.insert(at, 1 + below(random, 9), "0-[{\"9e,\xff"[below(random, 9)]); break;
            default:
                if (below(random, 4) == 0) bytes.resize(at);
                break;
        }
    }
}

/// A value that no field expects, or nearly does.
json strange(Random& random) {
    switch (below(random, 14)) {
        case 0: return nullptr;
        case 1: return -1;
        case 2: return 0;
        case 3: return 1e308;
        case 4: return std::numeric_limits<std::uint64_t>::max();
        case 5: return std::numeric_limits<std::int64_t>::min();
        case 6: return json::array();
        case 7: return json::object();
        case 8: return std::string(below(random, 5000), 'x');
        case 9: return true;
        case 10: return 4096;
        case 11: return json::array({1, "batch", -3, 0.5});
        case 12: return 64.5;
        default: return "batch";
    }
}

/// Exchange or drop values anywhere in a sidecar.
void exchange(json& content, Random& random) {
    json* at = &content;
    while (at->is_structured() && !at->empty()) {
        auto child = at->begin();
        std::advance(child, static_cast<std::ptrdiff_t>(below(random, at->size())));
        if (below(random, 8) == 0) {
            at->erase(child);
            return;
        }
        at = &*child;
        if (below(random, 4) == 0) break;
    }
    *at = strange(random);
}

int fuzz(const std::string& model, const std::string& folder, int count, unsigned seed) {
    Random random(seed);
    const std::string whole = read(model), sidecar_text = read(model + ".json");
    const std::string copy = folder + "/" + std::filesystem::path(model).filename().string();
    std::map<std::string, int> seen;
    const std::vector<std::uint8_t> pixels(32 * 24 * 3, 99);
    for (int i = 0; i < count; ++i) {
        std::string bytes = whole, text = sidecar_text;
        const std::size_t way = below(random, 4);
        if (way == 0) {
            mangle(text, text.size(), random);
        } else if (way == 1) {
            json content = json::parse(sidecar_text);
            exchange(content, random);
            text = content.dump();
        } else {  // a broken model with a correct checksum, so that it is read
            mangle(bytes, way == 2 ? 200 : bytes.size(), random);
            json content = json::parse(sidecar_text);
            content["sha256"] = hgfast::sha256(bytes.data(), bytes.size());
            text = content.dump();
        }
        write(copy, bytes);
        write(copy + ".json", text);
        hgfast::Session session;
        hgfast::Options options;
        options.threads = 1;
        hgfast::Status status = hgfast::Session::load(copy, options, session);
        hgfast::Result people;
        if (status) status = session.run({pixels.data(), 32, 24}, {{1, 2, 20, 20}}, people);
        if (status) people.to_json();
        if (status.ok() != status.message.empty()) throw std::runtime_error("a status without a message");
        ++seen[hgfast::name(status.code)];
    }
    std::cout << json(seen).dump() << "\n";
    return 0;
}

int stream(const std::string& model) {
    hgfast::Session session;
    hgfast::Options options;
    options.stream = &session;  // never used
    const hgfast::Status status = hgfast::Session::load(model, options, session);
    std::cout << hgfast::name(status.code) << ": " << status.message << "\n";
    return 0;
}

int threads(const std::string& model, int count) {
    hgfast::Options options;
    options.threads = 1;
    const std::vector<std::uint8_t> pixels(32 * 24 * 3, 99);
    const hgfast::Image image = {pixels.data(), 32, 24};
    const std::vector<hgfast::Box> boxes = {{1, 2, 20, 20}, {3, 4, 9, 12}};
    hgfast::Session shared;
    hgfast::Result expected;
    hgfast::Session::load(model, options, shared).or_throw();
    shared.run(image, boxes, expected).or_throw();
    std::atomic<int> errors{0};
    const auto run = [&](hgfast::Session& session) {
        hgfast::Result people;
        if (!session.run(image, boxes, people) || people.to_json() != expected.to_json()) ++errors;
        std::vector<hgfast::Result> results;
        if (!session.run(std::vector<hgfast::Image>(7, image), results) || results.size() != 7) ++errors;
        if (session.run({nullptr, 32, 24}, people)) ++errors;
        if (!session.is_open() || !session.skeleton() || session.about().empty()) ++errors;
    };
    std::vector<std::thread> all;
    for (int i = 0; i < 8; ++i)
        all.emplace_back([&, own = i % 2 == 1] {
            for (int k = 0; k < count; ++k) {
                if (!own) {
                    run(shared);
                    continue;
                }
                hgfast::Session session;
                if (!hgfast::Session::load(model, options, session)) ++errors;
                run(session);
                hgfast::Session moved = std::move(session);
                run(moved);
                moved.close();
                hgfast::Result none;
                if (moved.run(image, none)) ++errors;
            }
        });
    for (std::thread& one : all) one.join();
    if (errors > 0) throw std::runtime_error(std::to_string(errors) + " wrong results");
    return 0;
}

int crop(const std::vector<std::string>& words) {
    const auto whole = [&](std::size_t i) { return std::stoi(words.at(i)); };
    const int size = whole(1);
    const std::string pixels = read(words.at(5));
    const hgfast::Image image = {
        reinterpret_cast<const std::uint8_t*>(pixels.data()), whole(2), whole(3), whole(4), 0, hgfast::Order::rgb};
    hgfast::check_image(image);
    const hgfast::Square square = {std::stod(words.at(7)), std::stod(words.at(8)), std::stod(words.at(9))};
    std::string out(static_cast<std::size_t>(size * size * 3), '\0');
    hgfast::warp(image, hgfast::input_from_source(square, size), size, reinterpret_cast<std::uint8_t*>(out.data()));
    write(words.at(6), out);
    return 0;
}

}  // namespace

int main(int count, char** given) {
    try {
        const std::vector<std::string> words(given + 1, given + count);
        if (words.size() == 10 && words[0] == "crop") return crop(words);
        if (words.size() == 2 && words[0] == "stream") return stream(words[1]);
        if (words.size() == 3 && words[0] == "threads") return threads(words[1], std::stoi(words[2]));
        if (words.size() == 5 && words[0] == "fuzz")
            return fuzz(words[1], words[2], std::stoi(words[3]), static_cast<unsigned>(std::stoi(words[4])));
        std::cerr << "see the top of check.cpp\n";
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "hgfast_check: " << error.what() << "\n";
        return 1;
    }
}
