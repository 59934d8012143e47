#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#include "backend.hpp"
#include "engine_file.hpp"
#include "failure.hpp"
#include "geometry.hpp"
#include "sidecar.hpp"
#include "warp.hpp"

namespace hgfast {
namespace {

/// Run a function that may throw, and convert the exception to a Status.
template <typename Work>
Status reported(const Work& work) noexcept {
    try {
        work();
        return {};
    } catch (const Failure& failure) {
        return {failure.code, failure.what()};
    } catch (const std::bad_alloc&) {
        return {Code::failed, "memory ran out"};  // short enough to need no allocation
    } catch (const std::exception& error) {
        return {Code::failed, one_line(error.what())};
    } catch (...) {
        return {Code::failed, "unknown"};
    }
}

bool built_with(Backend backend) {
    const std::vector<Backend> all = backends();
    return std::find(all.begin(), all.end(), backend) != all.end();
}

Backend choose(const Artifact& artifact, Backend asked) {
    const Kind kind = artifact.sidecar.kind;
    if (kind == Kind::torchscript)
        throw Failure(Code::not_built,
                      artifact.path + " is TorchScript, which LibTorch runs and this library does not: export an ONNX");
    const Backend own = kind == Kind::onnx       ? Backend::openvino
                        : kind == Kind::tensorrt ? Backend::tensorrt
                                                 : Backend::tensorrt_rtx;
    if (asked != Backend::automatic && asked != own)
        throw Failure(Code::bad_option, artifact.path + " is not for " + name(asked) + ": " + name(own) + " runs it");
    return own;
}

std::unique_ptr<Runner> open_runner(const Artifact& artifact, const Options& options) {
    const Backend backend = choose(artifact, options.backend);
    if (backend != Backend::openvino) check_plan(artifact);
    if (!built_with(backend))
        throw Failure(Code::not_built,
                      artifact.path + " needs " + name(backend) + ", which this library was built without: see its README");
#if defined(HGFAST_WITH_OPENVINO)
    if (backend == Backend::openvino) return open_openvino(artifact, options);
#endif
#if defined(HGFAST_WITH_TENSORRT) || defined(HGFAST_WITH_TENSORRT_RTX)
    if (backend != Backend::openvino) return open_tensorrt(artifact, options);
#endif
    throw Failure(Code::not_built, "no backend");
}

void check_options(const Options& options) {
    if (!(options.padding > 0 && std::isfinite(options.padding)))
        throw Failure(Code::bad_option, "the padding " + number(options.padding) + " must be above 0");
    if (options.threads < 0 || options.threads > 1024)
        throw Failure(Code::bad_option, std::to_string(options.threads) + " threads are invalid: give 1 to 1024, or 0");
}

Status closed() { return {Code::closed, "session is closed; load a new one"}; }

/// A crop, and where its keypoints go.
struct Job {
    const Image* image;
    Square square;
    Person* person;
};

}  // namespace

std::vector<Backend> backends() {
    return {
#if defined(HGFAST_WITH_OPENVINO)
        Backend::openvino,
#endif
#if defined(HGFAST_WITH_TENSORRT)
        Backend::tensorrt,
#endif
#if defined(HGFAST_WITH_TENSORRT_RTX)
        Backend::tensorrt_rtx,
#endif
    };
}

const char* name(Backend backend) noexcept {
    constexpr std::array NAMES = {"automatic", "openvino", "tensorrt", "tensorrt_rtx"};
    const auto index = static_cast<std::size_t>(backend);
    return index < NAMES.size() ? NAMES[index] : "unknown";
}

struct Session::Impl {
    Impl(const Artifact& artifact, const Options& options)
        : sidecar(artifact.sidecar), padding(options.padding), runner(open_runner(artifact, options)) {
        // warm up with empty crops, so that errors of the first run occur here
        warm_up(sidecar.batch_min);
        if (sidecar.kind != Kind::onnx && sidecar.batch_opt != sidecar.batch_min) warm_up(sidecar.batch_opt);
    }

    void warm_up(int count) {
        std::memset(runner->input(count), 0, sidecar.crop_bytes() * static_cast<std::size_t>(count));
        runner->run(count);
    }

    /// Predict the people in each image, one per square.
    std::vector<Result> run(const std::vector<Image>& images, const std::vector<std::vector<Square>>& squares) {
        std::vector<Result> results;
        std::vector<Job> jobs;
        for (std::size_t i = 0; i < images.size(); ++i) {
            results.push_back({std::vector<Person>(squares[i].size()), sidecar.skeleton});
            for (std::size_t k = 0; k < squares[i].size(); ++k) {
                input_from_source(squares[i][k], sidecar.input_size);  // throws for a bad square, before the network runs
                jobs.push_back({&images[i], squares[i][k], &results[i].people[k]});
            }
        }
        run(jobs);
        return results;
    }

    /// Run all jobs in batches that the network accepts; an incomplete last batch is padded.
    void run(const std::vector<Job>& jobs) {
        const std::lock_guard<std::mutex> lock(mutex);
        const auto max_batch = static_cast<std::size_t>(sidecar.batch_max);
        for (std::size_t start = 0; start < jobs.size(); start += max_batch) {
            const std::size_t used = std::min(max_batch, jobs.size() - start);
            const auto count = std::max(static_cast<int>(used), sidecar.batch_min);
            auto* input = static_cast<std::uint8_t*>(runner->input(count));
            for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
                std::uint8_t* place = input + i * sidecar.crop_bytes();
                if (i < used)
                    write_crop(jobs[start + i], place);
                else
                    std::memcpy(place, place - sidecar.crop_bytes(), sidecar.crop_bytes());
            }
            const float* keypoints = runner->run(count);
            for (std::size_t i = 0; i < used; ++i, keypoints += 3 * sidecar.joints()) store_result(jobs[start + i], keypoints);
        }
    }

    /// Write a job's crop to the network's input.
    void write_crop(const Job& job, std::uint8_t* out) {
        const InputFromSource map = input_from_source(job.square, sidecar.input_size);
        if (!sidecar.normalized) return warp(*job.image, map, sidecar.input_size, out);
        const std::size_t plane = static_cast<std::size_t>(sidecar.input_size) * static_cast<std::size_t>(sidecar.input_size);
        crop.resize(plane * 3);
        warp(*job.image, map, sidecar.input_size, crop.data());
        auto* values = reinterpret_cast<float*>(out);  // a runner's memory is aligned for its input type
        for (std::size_t c = 0; c < 3; ++c)
            for (std::size_t i = 0; i < plane; ++i)
                values[c * plane + i] = (static_cast<float>(crop[3 * i + c]) / 255 - sidecar.mean[c]) / sidecar.std[c];
    }

    /// Convert keypoints (K, 3) from input pixels to image pixels.
    void store_result(const Job& job, const float* keypoints) const {
        const InputFromSource map = input_from_source(job.square, sidecar.input_size);
        job.person->square = job.square.box();
        job.person->keypoints.resize(sidecar.skeleton->joints.size());
        for (Keypoint& point : job.person->keypoints) {
            point = {map.source_x(keypoints[0]) + sidecar.shift, map.source_y(keypoints[1]) + sidecar.shift, keypoints[2]};
            keypoints += 3;
        }
    }

    Sidecar sidecar;
    double padding;
    std::unique_ptr<Runner> runner;
    std::mutex mutex;
    std::vector<std::uint8_t> crop;
};

Session::Session() noexcept = default;
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

Status Session::load(const std::string& path, const Options& options, Session& out) noexcept {
    return reported([&] {
        check_options(options);
        auto impl = std::make_unique<Impl>(read_artifact(path), options);
        out.impl_ = std::move(impl);
    });
}

Status Session::run(const Image& image, Result& out) noexcept {
    if (!impl_) return closed();
    return reported([&] {
        check_image(image);
        out = std::move(impl_->run({image}, {{whole_square(image)}}).front());
    });
}

Status Session::run(const Image& image, const std::vector<Box>& boxes, Result& out) noexcept {
    if (!impl_) return closed();
    return reported([&] {
        check_image(image);
        std::vector<Square> squares;
        for (const Box& box : boxes) squares.push_back(box_square(image, box, impl_->padding));
        out = std::move(impl_->run({image}, {squares}).front());
    });
}

Status Session::run(const std::vector<Image>& images, std::vector<Result>& out) noexcept {
    if (!impl_) return closed();
    return reported([&] {
        std::vector<std::vector<Square>> squares;
        for (const Image& image : images) {
            check_image(image);
            squares.push_back({whole_square(image)});
        }
        out = impl_->run(images, squares);
    });
}

void Session::close() noexcept { impl_.reset(); }

bool Session::is_open() const noexcept { return impl_ != nullptr; }

std::shared_ptr<const Skeleton> Session::skeleton() const noexcept { return impl_ ? impl_->sidecar.skeleton : nullptr; }

std::string Session::about() const { return impl_ ? impl_->runner->about() : closed().message; }

}  // namespace hgfast
