// RAII wrappers of CUDA resources.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>

#include "failure.hpp"

namespace hgfast::cuda {

/// Throw Failure (failed) if a call failed. what: its purpose, for the message.
inline void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess)
        throw Failure(Code::failed, std::string("CUDA failed to ") + what + " (" + cudaGetErrorString(error) + ")");
}

struct FreeDevice {
    void operator()(void* memory) const noexcept { cudaFree(memory); }
};
struct FreePinned {
    void operator()(void* memory) const noexcept { cudaFreeHost(memory); }
};
using Device = std::unique_ptr<void, FreeDevice>;
using Pinned = std::unique_ptr<void, FreePinned>;  // page-locked host memory

inline Device device_memory(std::size_t bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "allocate GPU memory");
    return Device(memory);
}

inline Pinned pinned_memory(std::size_t bytes) {
    void* memory = nullptr;
    check(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault), "allocate pinned memory");
    return Pinned(memory);
}

struct DestroyStream {
    void operator()(cudaStream_t stream) const noexcept { cudaStreamDestroy(stream); }
};
using Stream = std::unique_ptr<CUstream_st, DestroyStream>;

inline Stream make_stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a stream");
    return Stream(stream);
}

struct DestroyGraph {
    void operator()(cudaGraph_t graph) const noexcept { cudaGraphDestroy(graph); }
};
struct DestroyGraphExec {
    void operator()(cudaGraphExec_t graph) const noexcept { cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<CUgraph_st, DestroyGraph>;
using GraphExec = std::unique_ptr<CUgraphExec_st, DestroyGraphExec>;

/// Makes a GPU current in this thread, and restores the previous one.
class OnDevice {
public:
    explicit OnDevice(int device) {
        check(cudaGetDevice(&before_), "query the GPU");
        if (before_ != device) check(cudaSetDevice(device), "select the GPU");
        changed_ = before_ != device;
    }
    ~OnDevice() {
        if (changed_) cudaSetDevice(before_);
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

}  // namespace hgfast::cuda
