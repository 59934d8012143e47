// NOT TensorRT. The declarations that src/tensorrt.cpp uses, written down from NVIDIA's documentation with bodies that do
// nothing, so that a machine without TensorRT's headers can see that the file compiles, links and says that there is no GPU.
// Nothing built with it can run an engine. Use the headers of TensorRT 10 or 11 or of TensorRT-RTX for anything else.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

extern "C" std::int32_t getInferLibVersion() noexcept;

namespace nvinfer1 {

enum class DataType : std::int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5 };
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class OptProfileSelector : std::int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class ExecutionContextAllocationStrategy : std::int32_t { kSTATIC = 0, kON_PROFILE_CHANGE = 1, kUSER_MANAGED = 2 };
enum class CudaGraphStrategy : std::int32_t { kDISABLED = 0, kWHOLE_GRAPH_CAPTURE = 1 };

struct Dims64 {
    std::int32_t nbDims;
    std::int64_t d[8];
};
using Dims = Dims64;

class ILogger {
public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, char const* msg) noexcept = 0;
    virtual ~ILogger() = default;
};

class IExecutionContext {
public:
    virtual ~IExecutionContext() noexcept = default;
    bool setOptimizationProfileAsync(std::int32_t, cudaStream_t) noexcept { return false; }
    bool setInputShape(char const*, Dims const&) noexcept { return false; }
    bool setTensorAddress(char const*, void*) noexcept { return false; }
    void setDeviceMemoryV2(void*, std::int64_t) noexcept {}
    bool enqueueV3(cudaStream_t) noexcept { return false; }
};

class IRuntimeConfig {
public:
    virtual ~IRuntimeConfig() noexcept = default;
    bool setCudaGraphStrategy(CudaGraphStrategy) noexcept { return false; }  // TensorRT-RTX only
};

class ICudaEngine {
public:
    virtual ~ICudaEngine() noexcept = default;
    std::int32_t getNbIOTensors() const noexcept { return 0; }
    char const* getIOTensorName(std::int32_t) const noexcept { return ""; }
    TensorIOMode getTensorIOMode(char const*) const noexcept { return TensorIOMode::kNONE; }
    DataType getTensorDataType(char const*) const noexcept { return DataType::kFLOAT; }
    Dims getTensorShape(char const*) const noexcept { return {}; }
    Dims getProfileShape(char const*, std::int32_t, OptProfileSelector) const noexcept { return {}; }
    std::int64_t getDeviceMemorySizeV2() const noexcept { return 0; }
    IRuntimeConfig* createRuntimeConfig() noexcept { return nullptr; }
    IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) noexcept { return nullptr; }
    IExecutionContext* createExecutionContext(IRuntimeConfig*) noexcept { return nullptr; }
};

class IRuntime {
public:
    virtual ~IRuntime() noexcept = default;
    void setEngineHostCodeAllowed(bool) noexcept {}
    ICudaEngine* deserializeCudaEngine(void const*, std::size_t) noexcept { return nullptr; }
};

inline IRuntime* createInferRuntime(ILogger&) noexcept { return nullptr; }

}  // namespace nvinfer1
