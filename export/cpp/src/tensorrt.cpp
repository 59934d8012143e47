// TensorRT 10 and 11, or TensorRT-RTX, depending on the build: their interfaces are nearly the same, and a process can load only
// one of them. Crops are in pinned memory. Copying to the GPU, the network and copying back are one CUDA graph per batch size.
#include <NvInfer.h>

#include <algorithm>
#include <list>
#include <mutex>
#include <vector>

#include "backend.hpp"
#include "cuda.hpp"
#include "engine_file.hpp"
#include "failure.hpp"

#if !defined(HGFAST_WITH_TENSORRT_RTX) && NV_TENSORRT_VERSION < 100100
#error "TensorRT 10.1 or later is needed"
#endif

namespace hgfast {
namespace {

#if defined(TRT_MAJOR_RTX)  // in the headers of TensorRT-RTX only
constexpr const char* HEADERS = "TensorRT-RTX";
#else
constexpr const char* HEADERS = "TensorRT";
#endif
#if defined(HGFAST_WITH_TENSORRT_RTX)
constexpr const char* NAME = "TensorRT-RTX";
#else
constexpr const char* NAME = "TensorRT";
constexpr std::size_t MAX_GRAPHS = 8;  // batch sizes whose graphs are cached
#endif

/// Collects the last errors. The process has one logger, because TensorRT-RTX keeps the first that it gets.
class Listener final : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* text) noexcept override {
        if (severity > Severity::kERROR) return;
        try {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (lines_.size() == 3) lines_.pop_front();
            lines_.push_back(one_line(text));
        } catch (...) {
            return;  // out of memory: drop the message
        }
    }
    std::string take_errors() {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::string all;
        for (const std::string& line : lines_) all += (all.empty() ? "" : "; ") + line;
        lines_.clear();
        return all.empty() ? "it does not say why" : all;
    }

private:
    std::mutex mutex_;
    std::list<std::string> lines_;
};

Listener& listener() {
    static Listener& one = *new Listener;  // never destroyed: TensorRT may log when the process ends
    return one;
}

[[noreturn]] void refuse(Code code, const std::string& what, const char* advice) {
    throw Failure(code, what + " (" + listener().take_errors() + "): " + advice);
}

/// Return the requested GPU. This precedes all use of TensorRT, parts of which crash without a driver.
int find_device(const Artifact& artifact, const Options& options) {
    const std::string need = "running " + artifact.path + " needs an NVIDIA GPU";
    const std::string& asked = options.device;
    if (asked.size() > 4 || asked.find_first_not_of("0123456789") != std::string::npos)
        throw Failure(Code::bad_option, "the device '" + one_line(asked) + "' is not the index of a GPU, such as 0 or 1");
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) {
        const std::string why = cudaGetErrorString(error);
        cudaGetLastError();  // otherwise the application's next check would see the error
        throw Failure(Code::no_device,
                      need + ", and CUDA finds none that it can use (" + why + "): use a machine that has one, or an ONNX");
    }
    const int device = asked.empty() ? 0 : std::stoi(asked);
    if (device >= count)
        throw Failure(Code::no_device,
                      need + ", and number " + std::to_string(device) + " is not among the " + std::to_string(count) + " here");
    return device;
}

std::string dotted(long version) { return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100); }

/// Check that the library has the version of the headers that this file was compiled with: other versions have other virtual
/// tables. They are the same within a major version of TensorRT, but differ between TensorRT-RTX 1.3 and 1.7.
void check_headers(long version) {
#if defined(HGFAST_WITH_TENSORRT_RTX)
    constexpr long SAME = 100;
#else
    constexpr long SAME = 10000;
#endif
    if (version / SAME == NV_TENSORRT_VERSION / SAME) return;
    throw Failure(Code::not_built, "this library was built with the headers of " + std::string(HEADERS) + " " +
                                       dotted(NV_TENSORRT_VERSION) + " and finds " + NAME + " " + dotted(version) +
                                       ", which they do not match: build it with the headers of that version");
}

template <typename Made>
std::unique_ptr<Made> own(Made* made, const std::string& what, const char* advice) {
    if (made == nullptr) refuse(Code::bad_model, what, advice);
    return std::unique_ptr<Made>(made);
}

std::size_t bytes_of(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kINT64: return 8;
        case nvinfer1::DataType::kFLOAT:
        case nvinfer1::DataType::kINT32: return 4;
        case nvinfer1::DataType::kHALF:
        case nvinfer1::DataType::kBF16: return 2;
        default: return 1;
    }
}

/// An input or output of the network: its name, and its GPU memory for the largest batch.
struct Port {
    std::string name;
    std::size_t image_bytes = 0;
    cuda::Device memory;
};

class TensorRt final : public Runner {
public:
    TensorRt(const Artifact& artifact, const Options& options, int device)
        : path_(artifact.path), sidecar_(artifact.sidecar), device_(device), on_(std::make_unique<cuda::OnDevice>(device)) {
        stream_ = static_cast<cudaStream_t>(options.stream);
        own_ = cuda::make_stream();
        if (stream_ == nullptr) stream_ = own_.get();
        listener().take_errors();
        runtime_ =
            own(nvinfer1::createInferRuntime(listener()), std::string(NAME) + " does not start", "install its libraries again");
        // such a plan contains the runtime of the version that built it
        if (sidecar_.version_compatible) runtime_->setEngineHostCodeAllowed(true);
        engine_ = own(runtime_->deserializeCudaEngine(artifact.bytes.data(), artifact.bytes.size()),
                      std::string(NAME) + " cannot load " + path_, "build it on this machine");
        check_profile();
        find_ports();
        const auto most = static_cast<std::size_t>(sidecar_.batch_max);
        for (Port& port : ports_) port.memory = cuda::device_memory(port.image_bytes * most);
        host_input_ = cuda::pinned_memory(sidecar_.crop_bytes() * most);
        host_keypoints_ = cuda::pinned_memory(keypoint_bytes() * most);
#if !defined(HGFAST_WITH_TENSORRT_RTX)
        shared_bytes_ = engine_->getDeviceMemorySizeV2();
        shared_ = cuda::device_memory(static_cast<std::size_t>(std::max<std::int64_t>(1, shared_bytes_)));
#endif
        on_.reset();
    }

    ~TensorRt() override {
        try {
            on_ = std::make_unique<cuda::OnDevice>(device_);  // until all members below are destroyed
        } catch (const std::exception&) {
            return;  // nothing to free on a lost GPU
        }
        cudaStreamSynchronize(stream_);  // no work may use the resources that are freed next
    }

    void* input(int) override { return host_input_.get(); }

    const float* run(int count) override {
        const cuda::OnDevice here(device_);
        Shape& shape = shape_for(count);
        if (shape.graph)
            cuda::check(cudaGraphLaunch(shape.graph.get(), stream_), "launch a graph");
        else
            enqueue(shape, stream_);
        cuda::check(cudaStreamSynchronize(stream_), "run the network");
        return static_cast<const float*>(host_keypoints_.get());
    }

    std::string about() const override {
        return std::string(NAME) + " " + std::to_string(getInferLibVersion()) + " on GPU " + std::to_string(device_) + ", " +
               graphs_;
    }

private:
    /// A batch size with its own context, because a captured graph is valid only for the shape of its context. All share memory.
    struct Shape {
        int count = 0;
        std::unique_ptr<nvinfer1::IExecutionContext> context;
        cuda::GraphExec graph;
    };

    std::size_t keypoint_bytes() const { return sizeof(float) * 3 * static_cast<std::size_t>(sidecar_.joints()); }

    [[noreturn]] void differs(const std::string& what) const {
        throw Failure(Code::bad_model, path_ + " " + what + ", unlike its sidecar: export it again");
    }

    void find_ports() {
        using nvinfer1::TensorIOMode;
        std::vector<std::string> outputs;
        for (std::int32_t i = 0, n = engine_->getNbIOTensors(); i < n; ++i) {
            const std::string found = engine_->getIOTensorName(i);
            if (engine_->getTensorIOMode(found.c_str()) == TensorIOMode::kINPUT)
                ports_.push_back({found, 0, {}});
            else
                outputs.push_back(found);
        }
        if (ports_.size() != 1) differs("takes " + std::to_string(ports_.size()) + " inputs");
        for (const std::string& found : outputs) {
            // Torch-TensorRT calls outputs output0, output1 and so on, and keypoints are the first
            if (found == "keypoints" || (found == "output0" && keypoints_ == 0)) keypoints_ = ports_.size();
            ports_.push_back({found, 0, {}});
        }
        if (keypoints_ == 0) differs("gives no keypoints");
        const auto side = static_cast<std::int64_t>(sidecar_.input_size);
        if (sidecar_.normalized)
            check_port(0, nvinfer1::DataType::kFLOAT, {3, side, side});
        else
            check_port(0, nvinfer1::DataType::kUINT8, {side, side, 3});
        check_port(keypoints_, nvinfer1::DataType::kFLOAT, {static_cast<std::int64_t>(sidecar_.joints()), 3});
        for (Port& port : ports_) {
            const nvinfer1::Dims dims = engine_->getTensorShape(port.name.c_str());
            port.image_bytes = bytes_of(engine_->getTensorDataType(port.name.c_str()));
            for (std::int32_t i = 1; i < dims.nbDims; ++i) {
                const auto length = static_cast<std::int64_t>(dims.d[i]);
                if (length < 1 || length > 65536) differs("has a tensor " + port.name + " without a fixed size");
                port.image_bytes *= static_cast<std::size_t>(length);
            }
        }
    }

    void check_port(std::size_t index, nvinfer1::DataType type, const std::vector<std::int64_t>& wanted) const {
        const char* port = ports_[index].name.c_str();
        const nvinfer1::Dims dims = engine_->getTensorShape(port);
        bool same = dims.nbDims == static_cast<std::int32_t>(wanted.size()) + 1 && engine_->getTensorDataType(port) == type;
        for (std::size_t i = 0; same && i < wanted.size(); ++i) same = static_cast<std::int64_t>(dims.d[i + 1]) == wanted[i];
        if (!same) differs("has a tensor " + ports_[index].name + " of another shape or type");
    }

    void check_profile() const {
        using nvinfer1::OptProfileSelector;
        for (std::int32_t i = 0, n = engine_->getNbIOTensors(); i < n; ++i) {
            const char* port = engine_->getIOTensorName(i);
            if (engine_->getTensorIOMode(port) != nvinfer1::TensorIOMode::kINPUT || engine_->getTensorShape(port).d[0] != -1)
                continue;
            const nvinfer1::Dims least = engine_->getProfileShape(port, 0, OptProfileSelector::kMIN);
            const nvinfer1::Dims most = engine_->getProfileShape(port, 0, OptProfileSelector::kMAX);
            if (least.nbDims < 1 || least.d[0] > sidecar_.batch_min || most.d[0] < sidecar_.batch_max)
                differs("takes other batches");
        }
    }

    /// Return the context (and graph, for TensorRT) of a batch size, created on first use.
    Shape& shape_for(int count) {
        for (auto found = shapes_.begin(); found != shapes_.end(); ++found)
            if (found->count == count) {
                shapes_.splice(shapes_.begin(), shapes_, found);  // least recently used is evicted first
                return shapes_.front();
            }
        listener().take_errors();
#if defined(HGFAST_WITH_TENSORRT_RTX)
        // TensorRT-RTX captures graphs itself, because it replaces kernels at run time; one context serves all shapes
        if (shapes_.empty()) {
            Shape made;
            made.context = own(make_context(), path_ + " cannot start", "free memory on the GPU");
            shapes_.push_front(std::move(made));
        }
        set_shape(shapes_.front(), count);
#else
        if (shapes_.size() == MAX_GRAPHS) shapes_.pop_back();
        Shape made;
        made.context = own(engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED),
                           path_ + " cannot start", "free memory on the GPU");
        made.context->setDeviceMemoryV2(shared_.get(), shared_bytes_);
        if (!made.context->setOptimizationProfileAsync(0, own_.get()))
            refuse(Code::bad_model, path_ + " has no profile", "build it again");
        cuda::check(cudaStreamSynchronize(own_.get()), "set a profile");
        set_shape(made, count);
        capture(made);
        shapes_.push_front(std::move(made));
#endif
        return shapes_.front();
    }

    void set_shape(Shape& shape, int count) {
        nvinfer1::Dims dims = engine_->getTensorShape(ports_[0].name.c_str());
        dims.d[0] = count;
        shape.count = 0;
        if (!shape.context->setInputShape(ports_[0].name.c_str(), dims))
            refuse(Code::bad_model, path_ + " does not accept a batch of " + std::to_string(count), "see its sidecar");
        for (const Port& port : ports_)
            if (!shape.context->setTensorAddress(port.name.c_str(), port.memory.get()))
                refuse(Code::bad_model, path_ + " takes no memory for " + port.name, "build it again");
        shape.count = count;
    }

    /// Enqueue the copy to the GPU, the network, and the copy from the GPU.
    void enqueue(Shape& shape, cudaStream_t stream) {
        const auto count = static_cast<std::size_t>(shape.count);
        cuda::check(cudaMemcpyAsync(ports_[0].memory.get(), host_input_.get(), sidecar_.crop_bytes() * count,
                                    cudaMemcpyHostToDevice, stream),
                    "copy images");
        if (!shape.context->enqueueV3(stream)) refuse(Code::failed, path_ + " failed", "build it again on this machine");
        cuda::check(cudaMemcpyAsync(host_keypoints_.get(), ports_[keypoints_].memory.get(), keypoint_bytes() * count,
                                    cudaMemcpyDeviceToHost, stream),
                    "copy keypoints");
    }

#if defined(HGFAST_WITH_TENSORRT_RTX)
    nvinfer1::IExecutionContext* make_context() {
#if defined(TRT_MAJOR_RTX) && NV_TENSORRT_VERSION >= 10200
        const auto config = own(engine_->createRuntimeConfig(), path_ + " cannot start", "build it again on this machine");
        const bool graphs = config->setCudaGraphStrategy(nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE);
        graphs_ = graphs ? "CUDA graphs by TensorRT-RTX" : "no CUDA graphs (" + listener().take_errors() + ")";
        return engine_->createExecutionContext(config.get());
#else  // TensorRT-RTX before 1.2, or headers of TensorRT, which check_headers refuses
        graphs_ = "no CUDA graphs (TensorRT-RTX has them from 1.2 on)";
        return engine_->createExecutionContext();
#endif
    }
#else
    /// Run once, as TensorRT requires before a capture, then capture. If the capture fails twice, run without; `about` says so.
    void capture(Shape& shape) {
        enqueue(shape, own_.get());  // the caller's stream may not support capture
        cuda::check(cudaStreamSynchronize(own_.get()), "run the network");
        cudaError_t error = try_capture(shape);
        if (error != cudaSuccess) error = try_capture(shape);  // another thread may have invalidated the first
        graphs_ = error == cudaSuccess ? "CUDA graphs" : std::string("no CUDA graphs (") + cudaGetErrorString(error) + ")";
    }

    cudaError_t try_capture(Shape& shape) {
        const cudaStream_t stream = own_.get();
        cudaGraph_t found = nullptr;
        cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
        if (error == cudaSuccess) {
            std::string why;
            try {
                enqueue(shape, stream);
            } catch (const Failure& failure) {
                why = failure.what();
            }
            error = cudaStreamEndCapture(stream, &found);
            if (error == cudaSuccess && !why.empty()) error = cudaErrorStreamCaptureInvalidated;
        }
        const cuda::Graph graph(found);
        cudaGraphExec_t ready = nullptr;
        if (error == cudaSuccess) error = cudaGraphInstantiateWithFlags(&ready, graph.get(), 0);
        shape.graph.reset(ready);
        if (error != cudaSuccess) cudaGetLastError();
        return error;
    }
#endif

    std::string path_;
    Sidecar sidecar_;
    int device_;
    std::unique_ptr<cuda::OnDevice> on_;  // makes the GPU current in the constructor and the destructor
    cuda::Stream own_;
    cudaStream_t stream_ = nullptr;  // the session's or the caller's
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::vector<Port> ports_;    // the input, then the outputs
    std::size_t keypoints_ = 0;  // index of the keypoints
    cuda::Pinned host_input_, host_keypoints_;
#if !defined(HGFAST_WITH_TENSORRT_RTX)
    cuda::Device shared_;  // workspace that all contexts share
    std::int64_t shared_bytes_ = 0;
#endif
    std::list<Shape> shapes_;
    std::string graphs_ = "not yet run";
};

}  // namespace

std::unique_ptr<Runner> open_tensorrt(const Artifact& artifact, const Options& options) {
    const std::int32_t version = getInferLibVersion();  // major * 10000 + minor * 100 + patch; asks no GPU
    check_library(artifact, version / 10000, version / 100 % 100, version % 100);
    const int device = find_device(artifact, options);
    check_headers(version);
    return std::make_unique<TensorRt>(artifact, options, device);
}

}  // namespace hgfast
