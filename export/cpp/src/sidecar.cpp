#include "sidecar.hpp"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "failure.hpp"

namespace hgfast {
namespace {

using nlohmann::json;

constexpr int FORMAT = 1;
constexpr std::uintmax_t MAX_SIDECAR = 16u << 20, MAX_MODEL = std::uintmax_t{4} << 30;  // bytes
constexpr std::int64_t MAX_INPUT_SIDE = 8192, MAX_JOINTS = 4096, MAX_EDGES = 65536, MAX_BATCH = 4096;
constexpr double MAX_INPUT = 2.0 * (1u << 30), MAX_SHIFT = 1e6;  // bytes; pixels

/// A value in the sidecar and its location, such as "skeleton.joints.3".
class Field {
public:
    Field(const json& value, std::string where, const std::string& path) : value_(value), where_(std::move(where)), path_(path) {}

    [[noreturn]] void complain(const std::string& what) const {
        throw Failure(Code::bad_sidecar, "the sidecar " + path_ + " is invalid (" +
                                             (where_.empty() ? "" : where_ + ": ") + what + "): export again");
    }
    Field operator[](const char* key) const {
        if (!value_.is_object()) complain("it is not an object");
        const auto found = value_.find(key);
        if (found == value_.end()) complain(std::string("'") + key + "' is missing");
        return {*found, where_.empty() ? key : where_ + "." + key, path_};
    }
    Field at(std::size_t index) const { return {value_.at(index), where_ + "." + std::to_string(index), path_}; }
    bool has(const char* key) const { return value_.is_object() && value_.contains(key) && !value_[key].is_null(); }
    std::size_t size(std::size_t least, std::size_t most) const {
        if (!value_.is_array()) complain("it is not a list");
        if (value_.size() < least || value_.size() > most)
            complain("it has " + std::to_string(value_.size()) + " entries, not " + std::to_string(least) + " to " +
                     std::to_string(most));
        return value_.size();
    }
    std::string text() const {
        if (!value_.is_string()) complain("it is not a string");
        return value_.get<std::string>();
    }
    bool flag() const {
        if (!value_.is_boolean()) complain("it is neither true nor false");
        return value_.get<bool>();
    }
    int whole(std::int64_t least, std::int64_t most) const {
        if (!value_.is_number_integer()) complain("it is not a whole number");
        const bool large = value_.is_number_unsigned() &&
                           value_.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
        const std::int64_t result = large ? std::numeric_limits<std::int64_t>::max() : value_.get<std::int64_t>();
        if (result < least || result > most) complain("it is not from " + std::to_string(least) + " to " + std::to_string(most));
        return static_cast<int>(result);
    }
    double real(double least, double most) const {
        if (!value_.is_number()) complain("it is not a number");
        const double result = value_.get<double>();
        if (!(result >= least && result <= most)) complain("it is not from " + number(least) + " to " + number(most));
        return result;
    }
    bool is(const char* word) const { return value_.is_string() && value_.get_ref<const std::string&>() == word; }

private:
    const json& value_;
    std::string where_;
    const std::string& path_;
};

Kind read_kind(const Field& field) {
    const std::string word = field.text();
    if (word == "onnx") return Kind::onnx;
    if (word == "torchscript") return Kind::torchscript;
    if (word == "tensorrt") return Kind::tensorrt;
    if (word == "tensorrt_rtx") return Kind::tensorrt_rtx;
    field.complain("'" + one_line(word) + "' is not among onnx, torchscript, tensorrt and tensorrt_rtx");
}

std::shared_ptr<const Skeleton> read_skeleton(const Field& field) {
    auto skeleton = std::make_shared<Skeleton>();
    skeleton->name = field["name"].text();
    const Field joints = field["joints"], edges = field["edges"];
    const std::size_t count = joints.size(1, static_cast<std::size_t>(MAX_JOINTS));
    std::set<std::string> seen;
    for (std::size_t i = 0; i < count; ++i) {
        skeleton->joints.push_back(joints.at(i).text());
        if (!seen.insert(skeleton->joints.back()).second) joints.at(i).complain("there are two joints of this name");
    }
    const auto last = static_cast<std::int64_t>(count) - 1;
    for (std::size_t i = 0, n = edges.size(0, static_cast<std::size_t>(MAX_EDGES)); i < n; ++i) {
        const Field edge = edges.at(i);
        edge.size(2, 2);
        skeleton->edges.push_back({edge.at(0).whole(0, last), edge.at(1).whole(0, last)});
    }
    return skeleton;
}

/// Check that a port's shape is the batch followed by `wanted`.
void check_port(const Field& port, const char* dtype, const std::array<int, 3>& wanted, std::size_t axes,
                const Sidecar& sidecar) {
    if (!port["dtype"].is(dtype)) port["dtype"].complain(std::string("it is not ") + dtype);
    const Field shape = port["shape"];
    shape.size(axes + 1, axes + 1);
    if (!shape.at(0).is("batch") && shape.at(0).whole(1, MAX_BATCH) != sidecar.batch_max)
        shape.at(0).complain("it is not the batch");
    for (std::size_t i = 0; i < axes; ++i)
        if (shape.at(i + 1).whole(1, MAX_INPUT_SIDE) != wanted[i])
            shape.at(i + 1).complain("it is not " + std::to_string(wanted[i]));
}

void check_ports(const Field& all, Sidecar& sidecar) {
    const int side = sidecar.input_size;
    const Field input = all["input"], outputs = all["outputs"];
    sidecar.input = input["name"].text();
    if (sidecar.normalized)
        check_port(input, "float32", {3, side, side}, 3, sidecar);
    else
        check_port(input, "uint8", {side, side, 3}, 3, sidecar);
    for (std::size_t i = 0, n = outputs.size(1, 8); i < n; ++i)
        if (outputs.at(i)["name"].is("keypoints"))
            return check_port(outputs.at(i), "float32", {sidecar.joints(), 3, 0}, 2, sidecar);
    outputs.complain("the network gives no keypoints, export it with --outputs keypoints");
}

std::string read_file(const std::string& path, std::uintmax_t largest, const std::string& missing) {
    namespace fs = std::filesystem;
    std::error_code error;
    if (!fs::is_regular_file(path, error)) throw Failure(Code::no_file, missing);
    const std::uintmax_t size = fs::file_size(path, error);
    if (error || size > largest)
        throw Failure(Code::no_file, path + " cannot be read (" + (error ? error.message() : "it is too large") + ")");
    std::string bytes(static_cast<std::size_t>(size), '\0');
    std::ifstream file(path, std::ios::binary);
    if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) throw Failure(Code::no_file, path + " cannot be read");
    return bytes;
}

}  // namespace

Sidecar parse_sidecar(const std::string& text, const std::string& path) {
    const json content = json::parse(text, nullptr, false);
    if (content.is_discarded())
        throw Failure(Code::bad_sidecar, "the sidecar " + path + " cannot be read (it is not JSON): export again");
    const Field all(content, "", path);
    const Field format = all["format"];
    if (format.whole(std::numeric_limits<int>::min(), std::numeric_limits<int>::max()) != FORMAT)
        throw Failure(Code::bad_sidecar, "the sidecar " + path + " has another format than the " + std::to_string(FORMAT) +
                                             " that this hgfast reads: export again");
    Sidecar sidecar;
    sidecar.kind = read_kind(all["kind"]);
    sidecar.sha256 = all["sha256"].text();
    if (sidecar.sha256.size() != 64 || sidecar.sha256.find_first_not_of("0123456789abcdef") != std::string::npos)
        all["sha256"].complain("it is not 64 hexadecimal digits");
    sidecar.skeleton = read_skeleton(all["skeleton"]);
    sidecar.input_size = all["input_size"].whole(1, MAX_INPUT_SIDE);
    sidecar.normalized = all["normalised"].flag();
    const Field mean = all["mean"], std = all["std"], batch = all["batch"];
    mean.size(3, 3), std.size(3, 3);
    for (std::size_t i = 0; i < 3; ++i) {
        sidecar.mean[i] = static_cast<float>(mean.at(i).real(-1e6, 1e6));
        sidecar.std[i] = static_cast<float>(std.at(i).real(1e-6, 1e6));
    }
    sidecar.batch_min = batch["min"].whole(1, MAX_BATCH);
    sidecar.batch_opt = batch["opt"].whole(sidecar.batch_min, MAX_BATCH);
    sidecar.batch_max = batch["max"].whole(sidecar.batch_opt, MAX_BATCH);
    if (static_cast<double>(sidecar.crop_bytes()) * sidecar.batch_max > MAX_INPUT)
        batch.complain("so many images need too much memory");
    sidecar.shift = all["shift"].real(-MAX_SHIFT, MAX_SHIFT);
    check_ports(all, sidecar);
    if (sidecar.kind == Kind::tensorrt || sidecar.kind == Kind::tensorrt_rtx) {
        const Field builder = all["builder"];
        sidecar.builder_version = builder["version"].text();
        if (builder.has("version_compatible")) sidecar.version_compatible = builder["version_compatible"].flag();
    }
    return sidecar;
}

Artifact read_artifact(const std::string& path) {
    const std::string sidecar_path = path + ".json";
    Artifact artifact;
    artifact.path = path;
    artifact.bytes =
        read_file(path, MAX_MODEL, "there is no file " + path + ": create it with hgfast export onnx or tensorrt");
    const std::string text = read_file(sidecar_path, MAX_SIDECAR,
                                       path + " has no sidecar " + sidecar_path + " in its folder, which is required: copy both");
    artifact.sidecar = parse_sidecar(text, sidecar_path);
    if (sha256(artifact.bytes.data(), artifact.bytes.size()) != artifact.sidecar.sha256)
        throw Failure(Code::other_sidecar, "the sidecar " + sidecar_path + " does not belong to " + path +
                                               " (another sha256): copy both, or export again");
    return artifact;
}

}  // namespace hgfast
