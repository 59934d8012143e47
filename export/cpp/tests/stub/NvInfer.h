// NOT TensorRT. Own declarations of what src/tensorrt.cpp uses, with empty bodies. They show on a machine without NVIDIA's headers
// that the file compiles, links and reports a missing GPU. Nothing built with them can run an engine; use the headers of TensorRT
// 10 or 11 or of TensorRT-RTX for that.
// The declarations follow the headers of TensorRT 10.16 and 11.3 and the documentation of TensorRT-RTX. They are those of
// TensorRT-RTX if src/tensorrt.cpp is built for it, else those of TensorRT 11, or of -DHGFAST_STUB_TENSORRT=10 or 11.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#if defined(HGFAST_STUB_TENSORRT)
#define NV_TENSORRT_MAJOR HGFAST_STUB_TENSORRT
#define NV_TENSORRT_MINOR 3
#elif defined(HGFAST_WITH_TENSORRT_RTX)
#define TRT_MAJOR_RTX 1
#define NV_TENSORRT_MAJOR TRT_MAJOR_RTX
#define NV_TENSORRT_MINOR 7
#else
#define NV_TENSORRT_MAJOR 11
#define NV_TENSORRT_MINOR 3
#endif
#define NV_TENSORRT_PATCH 0
#define NV_TENSORRT_VERSION (NV_TENSORRT_MAJOR * 10000L + NV_TENSORRT_MINOR * 100L + NV_TENSORRT_PATCH * 1L)

extern "C" std::int32_t getInferLibVersion() noexcept;

namespace nvinfer1 {

using AsciiChar = char;

enum class DataType : std::int32_t {
    kFLOAT = 0,
    kHALF = 1,
    kINT8 = 2,
    kINT32 = 3,
    kBOOL = 4,
    kUINT8 = 5,
    kFP8 = 6,
    kBF16 = 7,
    kINT64 = 8,
    kINT4 = 9,
    kFP4 = 10,
    kE8M0 = 11
};
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class OptProfileSelector : std::int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class ExecutionContextAllocationStrategy : std::int32_t { kSTATIC = 0, kON_PROFILE_CHANGE = 1, kUSER_MANAGED = 2 };

class Dims64 {
public:
    static constexpr std::int32_t MAX_DIMS{8};
    std::int32_t nbDims;
    std::int64_t d[MAX_DIMS];
};
using Dims = Dims64;

#if NV_TENSORRT_MAJOR == 10
class ILogger {
public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
    virtual ~ILogger() = default;
};
#else
class InterfaceInfo {
public:
    char const* kind;
    std::int32_t major;
    std::int32_t minor;
};
enum class APILanguage : std::int32_t { kCPP = 0, kPYTHON = 1 };

class IVersionedInterface {
public:
    virtual APILanguage getAPILanguage() const noexcept { return APILanguage::kCPP; }
    virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
    virtual ~IVersionedInterface() noexcept = default;
};

namespace v_1_0 {
class ILogger : public IVersionedInterface {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILogger", 1, 0}; }
    enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
    ~ILogger() override = default;
};
}  // namespace v_1_0
using ILogger = v_1_0::ILogger;
#endif

/// Objects that only the library creates, and that cannot be copied.
class INoCopy {
protected:
    INoCopy() = default;
    virtual ~INoCopy() = default;
    INoCopy(INoCopy const&) = delete;
    INoCopy& operator=(INoCopy const&) = delete;
};

class IExecutionContext : public INoCopy {
public:
    virtual ~IExecutionContext() noexcept = 0;
    bool setOptimizationProfileAsync(std::int32_t, cudaStream_t) noexcept { return false; }
    bool setInputShape(char const*, Dims const&) noexcept { return false; }
    bool setTensorAddress(char const*, void*) noexcept { return false; }
    void setDeviceMemoryV2(void*, std::int64_t) noexcept {}
    bool enqueueV3(cudaStream_t) noexcept { return false; }
};
inline IExecutionContext::~IExecutionContext() noexcept = default;

#if defined(TRT_MAJOR_RTX)
enum class CudaGraphStrategy : std::int32_t { kDISABLED = 0, kWHOLE_GRAPH_CAPTURE = 1 };
#endif

class IRuntimeConfig : public INoCopy {
public:
    virtual ~IRuntimeConfig() noexcept = 0;
#if defined(TRT_MAJOR_RTX)
    bool setCudaGraphStrategy(CudaGraphStrategy) noexcept { return false; }
#endif
};
inline IRuntimeConfig::~IRuntimeConfig() noexcept = default;

class ICudaEngine : public INoCopy {
public:
    virtual ~ICudaEngine() noexcept = 0;
    std::int32_t getNbIOTensors() const noexcept { return 0; }
    char const* getIOTensorName(std::int32_t) const noexcept { return ""; }
    TensorIOMode getTensorIOMode(char const*) const noexcept { return TensorIOMode::kNONE; }
    DataType getTensorDataType(char const*) const noexcept { return DataType::kFLOAT; }
    Dims getTensorShape(char const*) const noexcept { return {}; }
    Dims getProfileShape(char const*, std::int32_t, OptProfileSelector) const noexcept { return {}; }
    std::int64_t getDeviceMemorySizeV2() const noexcept { return 0; }
    IRuntimeConfig* createRuntimeConfig() noexcept { return nullptr; }
    IExecutionContext* createExecutionContext(
        ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy::kSTATIC) noexcept {
        return nullptr;
    }
    IExecutionContext* createExecutionContext(IRuntimeConfig*) noexcept { return nullptr; }
};
inline ICudaEngine::~ICudaEngine() noexcept = default;

class IRuntime : public INoCopy {
public:
    virtual ~IRuntime() noexcept = 0;
    void setEngineHostCodeAllowed(bool) noexcept {}
    ICudaEngine* deserializeCudaEngine(void const*, std::size_t) noexcept { return nullptr; }
};
inline IRuntime::~IRuntime() noexcept = default;

namespace {
// the true one calls createInferRuntime_INTERNAL, with its version, and gets what would not fit these declarations
inline IRuntime* createInferRuntime(ILogger&) noexcept { return nullptr; }
}  // namespace

}  // namespace nvinfer1
