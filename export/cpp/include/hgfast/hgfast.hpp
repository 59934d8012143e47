// Exported hourglass networks in a C++ application: pictures in, keypoints in the pictures' own pixels out.
//
//     hgfast::Session session;
//     hgfast::Result people;
//     hgfast::Status status = hgfast::Session::load("best.fp32.onnx", {}, session);
//     if (status) status = session.run({pixels, width, height}, {{120, 40, 300, 420}}, people);
//     if (!status) std::cerr << status.message << "\n";
//
// Points are x right, y down, in pixels of the picture that was given, (0, 0) at the outer corner of its first pixel, so that
// pixel column c has its centre at c + 0.5. Nothing here throws but Status::or_throw and what runs out of memory while copying
// a value.
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

/// What went wrong, for programs; Status::message says it for people.
enum class Code {
    ok,
    bad_option,     ///< an option or a padding that makes no sense
    bad_image,      ///< no pixels, or not of a form that is taken
    bad_box,        ///< not finite, without area, outside the picture or far too large
    no_file,        ///< the model or its sidecar is missing or cannot be read
    bad_sidecar,    ///< the sidecar is broken, of another format, or does not describe such a network
    other_sidecar,  ///< the sidecar belongs to another file, or the model was changed
    bad_model,      ///< the runtime does not read the model, or it is not what the sidecar says
    wrong_version,  ///< an engine of another version of TensorRT than the one that is here
    not_built,      ///< this library was built without the backend that runs the model
    no_device,      ///< no GPU, or no driver for it
    closed,         ///< the session was never loaded, or is closed
    failed,         ///< the runtime failed, or memory ran out
};

/// The code's name, "bad_box" and the like.
HGFAST_API const char* name(Code code) noexcept;

/// Whether something went well; if not, why, in one sentence.
struct Status {
    Code code = Code::ok;
    std::string message;

    bool ok() const noexcept { return code == Code::ok; }
    explicit operator bool() const noexcept { return ok(); }
    /// For those who prefer exceptions. Throws std::runtime_error with the message unless all is well.
    HGFAST_API void or_throw() const;
};

enum class Order { rgb, bgr };

/// A picture in the caller's memory, 8 bits a channel, rows from the top. It is read during a run and not kept.
struct Image {
    const std::uint8_t* data = nullptr;
    int width = 0;                 ///< pixels
    int height = 0;                ///< pixels
    int channels = 3;              ///< 1 (grey), 3 or 4 (the fourth is left out)
    std::size_t stride_bytes = 0;  ///< from one row to the next; 0: rows follow each other without a gap
    Order order = Order::rgb;      ///< OpenCV's pictures are bgr
};

/// One person or hand, in pixels of the picture; the network sees the square around it, black where that leaves the picture.
struct Box {
    double x = 0, y = 0, width = 0, height = 0;
};

struct Keypoint {
    double x = 0, y = 0;  ///< pixels of the picture
    double score = 0;     ///< of the network's decoder; about 0 to 1
};

struct Person {
    Box square;                       ///< what the network looked at
    std::vector<Keypoint> keypoints;  ///< one a joint, in the skeleton's order
};

struct Skeleton {
    std::string name;
    std::vector<std::string> joints;
    std::vector<std::array<int, 2>> edges;  ///< pairs of joints to draw a line between
};

struct Result {
    std::vector<Person> people;  ///< one a box, in the boxes' order
    std::shared_ptr<const Skeleton> skeleton;

    /// {"joints": [...], "people": [{"square": [x, y, w, h], "keypoints": [[x, y, score], ...]}, ...]} in thousandths of a
    /// pixel, as hgfast.runtime writes it; numbers that are not finite are null.
    HGFAST_API std::string to_json() const;
};

enum class Backend { automatic, openvino, tensorrt, tensorrt_rtx };

struct Options {
    Backend backend = Backend::automatic;  ///< automatic: the one that runs such a file
    int threads = 0;                       ///< of a CPU; 0: as many as the runtime likes
    std::string device;                    ///< OpenVINO's name of it ("CPU") or a GPU's number ("0"); empty: the first
    void* stream = nullptr;                ///< a cudaStream_t for a GPU's work; null: one of the session's own
    double padding = 1.0;                  ///< side of the square over the longer side of its box; 1.25 for tight boxes
};

/// The backends that this library was built with.
HGFAST_API std::vector<Backend> backends();

/// "automatic", "openvino", "tensorrt" or "tensorrt_rtx".
HGFAST_API const char* name(Backend backend) noexcept;

/// A network, loaded and warmed up. Calls from several threads take turns; several sessions may live in one process. An object
/// that is being moved, closed or destroyed must not be used by another thread.
class HGFAST_API Session {
public:
    Session() noexcept;
    ~Session();
    Session(Session&&) noexcept;
    Session& operator=(Session&&) noexcept;
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    /// Reads PATH (.onnx or .engine) and PATH.json beside it, checks them against each other and runs once.
    /// `out` keeps what it was unless all goes well.
    static Status load(const std::string& path, const Options& options, Session& out) noexcept;

    /// The whole picture as one person.
    Status run(const Image& image, Result& out) noexcept;

    /// One person a box. More boxes than the network takes at once go in parts.
    Status run(const Image& image, const std::vector<Box>& boxes, Result& out) noexcept;

    /// Each picture as one person, batched; one result a picture.
    Status run(const std::vector<Image>& images, std::vector<Result>& out) noexcept;

    /// Gives back everything. Closing twice does no harm.
    void close() noexcept;

    bool is_open() const noexcept;
    /// The joints, or null where nothing is loaded.
    std::shared_ptr<const Skeleton> skeleton() const noexcept;
    /// What runs the network and how, in one line: the backend, its version, the device, CUDA graphs or why none.
    std::string about() const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace hgfast
