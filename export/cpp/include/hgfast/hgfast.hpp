// Run exported hourglass networks in a C++ application: images in, keypoints in image pixels out.
//
//     hgfast::Session session;
//     hgfast::Result people;
//     hgfast::Status status = hgfast::Session::load("best.fp32.onnx", {}, session);
//     if (status) status = session.run({pixels, width, height}, {{120, 40, 300, 420}}, people);
//     if (!status) std::cerr << status.message << "\n";
//
// Points are x right, y down, in pixels of the given image, with (0, 0) at the outer corner of its first pixel, so that pixel
// column c has its center at c + 0.5. Nothing here throws except Status::or_throw, and copies of values that run out of memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#if defined(_WIN32)
#define HGFAST_API
#else
#define HGFAST_API __attribute__((visibility("default")))
#endif

namespace hgfast {

/// Error codes for programs; Status::message is for people.
enum class Code {
    ok,
    bad_option,     ///< an invalid option or padding, or a device or stream that the backend does not have
    bad_image,      ///< no pixels, or an unsupported form
    bad_box,        ///< not finite, without area, outside the image or far too large
    no_file,        ///< the model or its sidecar is missing or cannot be read
    bad_sidecar,    ///< the sidecar is broken, of another format, or describes an unsupported network
    other_sidecar,  ///< the sidecar belongs to another file, or the model was modified
    bad_model,      ///< the runtime cannot read the model, or it does not match the sidecar
    wrong_version,  ///< the engine was built by another version of TensorRT than the installed one
    not_built,      ///< this library was built without the required backend
    no_device,      ///< no GPU or no driver
    closed,         ///< the session was never loaded, or is closed
    failed,         ///< the runtime failed, or memory ran out
};

/// Name of a code, such as "bad_box".
HGFAST_API const char* name(Code code) noexcept;

/// Result of a call: a code and, unless it is ok, one sentence.
struct Status {
    Code code = Code::ok;
    std::string message;

    bool ok() const noexcept { return code == Code::ok; }
    explicit operator bool() const noexcept { return ok(); }
    /// Throws std::runtime_error with the message unless the status is ok.
    HGFAST_API void or_throw() const;
};

enum class Order { rgb, bgr };

/// An image in the caller's memory, 8 bits per channel, rows from the top. It is only read during a run.
struct Image {
    const std::uint8_t* data = nullptr;
    int width = 0;                 ///< pixels
    int height = 0;                ///< pixels
    int channels = 3;              ///< 1 (gray), 3 or 4 (the fourth is ignored)
    std::size_t stride_bytes = 0;  ///< between the starts of rows; 0: rows are contiguous
    Order order = Order::rgb;      ///< OpenCV uses bgr
};

/// One person or hand, in pixels of the image; the network sees a square around it, black outside the image.
struct Box {
    double x = 0, y = 0, width = 0, height = 0;
};

struct Keypoint {
    double x = 0, y = 0;  ///< pixels of the image
    double score = 0;     ///< of the network's decoder; about 0 to 1
};

struct Person {
    Box square;                       ///< the crop
    std::vector<Keypoint> keypoints;  ///< one per joint, in the skeleton's order
};

struct Skeleton {
    std::string name;
    std::vector<std::string> joints;
    std::vector<std::array<int, 2>> edges;  ///< pairs of joints to connect
};

struct Result {
    std::vector<Person> people;  ///< one per box, in the order of the boxes
    std::shared_ptr<const Skeleton> skeleton;

    /// {"joints": [...], "people": [{"square": [x, y, w, h], "keypoints": [[x, y, score], ...]}, ...]} in thousandths of a
    /// pixel, as hgfast.runtime writes it; numbers that are not finite are null.
    HGFAST_API std::string to_json() const;
};

enum class Backend { automatic, openvino, tensorrt, tensorrt_rtx };

struct Options {
    Backend backend = Backend::automatic;  ///< automatic: chosen by the format of the file
    int threads = 0;                       ///< CPU threads; 0: the runtime's default
    std::string device;                    ///< OpenVINO device name, by default "CPU", or GPU index of an engine, by default "0"
    void* stream = nullptr;                ///< a cudaStream_t for an engine; null: the session creates one
    double padding = 1.0;                  ///< side of the square divided by the longer side of the box; 1.25 for tight boxes
};

/// The backends that this library was built with.
HGFAST_API std::vector<Backend> backends();

/// "automatic", "openvino", "tensorrt" or "tensorrt_rtx".
HGFAST_API const char* name(Backend backend) noexcept;

/// A network, loaded and warmed up. Calls from several threads are serialized; a process may have several sessions. No other
/// thread may use an object that is being moved, closed or destroyed.
class HGFAST_API Session {
public:
    Session() noexcept;
    ~Session();
    Session(Session&&) noexcept;
    Session& operator=(Session&&) noexcept;
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    /// Read PATH (.onnx or .engine) and its sidecar PATH.json, check that they belong together, and run once.
    /// `out` is unchanged unless the status is ok.
    static Status load(const std::string& path, const Options& options, Session& out) noexcept;

    /// The whole image as one person.
    Status run(const Image& image, Result& out) noexcept;

    /// One person per box. Boxes are split into batches that the network accepts.
    Status run(const Image& image, const std::vector<Box>& boxes, Result& out) noexcept;

    /// Each image as one person, in batches; one result per image.
    Status run(const std::vector<Image>& images, std::vector<Result>& out) noexcept;

    /// Free all resources. Repeated calls have no effect.
    void close() noexcept;

    bool is_open() const noexcept;
    /// The skeleton, or null if nothing is loaded.
    std::shared_ptr<const Skeleton> skeleton() const noexcept;
    /// One line on how the network runs: backend, version, device, and CUDA graphs or why there are none.
    std::string about() const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace hgfast
