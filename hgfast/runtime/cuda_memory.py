"""Memory, streams and graphs on an NVIDIA GPU, with NVIDIA's cuda-bindings and without torch.

Resources are freed by `close` or when the object is garbage collected.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import weakref
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hgfast.errors import HgfastError, one_line

NO_GPU_ADVICE = "use a machine that has one, or export to ONNX, which needs no GPU"


class GpuNotFound(HgfastError):
    """Everything is installed and valid, but this machine has no usable GPU."""


def import_cudart(what: str) -> Any:
    """Import the CUDA runtime of cuda-bindings, which needs no GPU. what: the file that needs it, for messages."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        details = "" if isinstance(error, ModuleNotFoundError) else f" ({one_line(error)})"
        raise HgfastError(
            f"running {what} needs cuda-bindings, which manages its GPU memory{details}: pip install cuda-bindings"
        ) from error


class CudaDevice:
    """A GPU. device: its CUDA index. what: the file that runs on it, for messages.

    Raises:
        GpuNotFound: there is no driver, the driver is too old, or there is no GPU; the message says which.
        HgfastError: cuda-bindings is not installed, or the machine has GPUs but not this index.
    """

    def __init__(self, device: int = 0, what: str = "this") -> None:
        self.cudart = cudart = import_cudart(what)
        self.device, self.name = device, what
        code, count = cudart.cudaGetDeviceCount()
        if code != cudart.cudaError_t.cudaSuccess or count == 0:
            raise GpuNotFound(f"running {what} needs an NVIDIA GPU, and {self._no_device_reason(code)}")
        if not 0 <= device < count:
            available = "only GPU 0" if count == 1 else f"GPUs 0 to {count - 1}"
            raise HgfastError(
                f"running {what} on GPU {device} is not possible, because CUDA finds {available}: choose another device"
            )

    def check_error(self, result: tuple[Any, ...], action: str) -> Any:
        """Return the value of a CUDA runtime call without its error code. action: its purpose, for a message after "cannot".

        Raises:
            HgfastError: the call returned an error.
        """
        code, *values = result
        if code != self.cudart.cudaError_t.cudaSuccess:
            out_of_memory = code == self.cudart.cudaError_t.cudaErrorMemoryAllocation
            advice = "free GPU memory, or use a smaller batch" if out_of_memory else "restart the program, or update the driver"
            raise HgfastError(f"{self.name} cannot {action} ({self.error_string(code)}): {advice}")
        return values[0] if values else None

    def error_string(self, code: Any) -> str:
        """Return the name and the description of an error."""
        cudart = self.cudart
        _, name = cudart.cudaGetErrorName(code)
        _, text = cudart.cudaGetErrorString(code)
        return ", ".join(part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in (name, text))

    @contextlib.contextmanager
    def activate(self, must: bool = True) -> Iterator[None]:
        """Make this GPU current in the calling thread within the `with`. must: raise `HgfastError` if that fails."""
        cudart = self.cudart
        _, previous = cudart.cudaGetDevice()
        result = cudart.cudaSetDevice(self.device)
        if must:
            self.check_error(result, f"use GPU {self.device}")
        try:
            yield
        finally:
            if previous is not None and previous != self.device:
                cudart.cudaSetDevice(previous)

    def _no_device_reason(self, code: Any) -> str:
        """Return why there is no GPU, and what to do."""
        cudart = self.cudart
        if code == cudart.cudaError_t.cudaSuccess:
            return f"CUDA finds none: {NO_GPU_ADVICE}"
        if code != cudart.cudaError_t.cudaErrorInsufficientDriver:
            return f"CUDA finds none that it can use ({self.error_string(code)}): {NO_GPU_ADVICE}"
        _, driver = cudart.cudaDriverGetVersion()
        if not driver:
            return f"no NVIDIA driver is installed: {NO_GPU_ADVICE}"
        _, needed = cudart.cudaRuntimeGetVersion()
        downgrade_advice = (
            f", or pip install 'cuda-bindings=={driver // 1000}.*'" if 12 <= driver // 1000 < needed // 1000 else ""
        )
        return (
            f"the driver supports CUDA up to {_format_cuda_version(driver)}, but cuda-bindings needs "
            f"{_format_cuda_version(needed)}: update the driver{downgrade_advice}"
        )


class _CudaResource:
    """A CUDA resource that is freed once, by `free(handle)`."""

    def __init__(self, gpu: CudaDevice, free: Callable[[Any], object] | None, handle: Any) -> None:
        self.gpu = gpu
        self._finalizer = None if free is None else weakref.finalize(self, _free, gpu, free, handle)

    def close(self) -> None:
        """Free the resource. Repeated calls have no effect. No pending GPU work may use it."""
        if self._finalizer is not None:
            self._finalizer()


def _free(gpu: CudaDevice, free: Callable[[Any], object], handle: Any) -> None:
    # memory that CUDA cannot free, as after a GPU failure, is freed when the process ends
    with gpu.activate(must=False):
        free(handle)


class PinnedBuffer(_CudaResource):
    """An array in page-locked memory, for asynchronous copies. `array` is empty after `close`."""

    def __init__(self, gpu: CudaDevice, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        cudart, numpy_dtype = gpu.cudart, np.dtype(dtype)
        size = max(1, prod(shape) * numpy_dtype.itemsize)
        self.address = int(gpu.check_error(cudart.cudaMallocHost(size), f"allocate {size} bytes of page-locked memory"))
        super().__init__(gpu, cudart.cudaFreeHost, self.address)
        raw = memoryview((ctypes.c_ubyte * size).from_address(self.address))
        self.array: NDArray[Any] = np.frombuffer(raw, numpy_dtype, prod(shape)).reshape(shape)

    def close(self) -> None:
        self.array = np.empty(0, self.array.dtype)
        super().close()


class DeviceBuffer(_CudaResource):
    """GPU memory at `address`."""

    def __init__(self, gpu: CudaDevice, nbytes: int) -> None:
        cudart = gpu.cudart
        self.nbytes = nbytes
        self.address = int(gpu.check_error(cudart.cudaMalloc(max(1, nbytes)), f"allocate {nbytes} bytes on GPU {gpu.device}"))
        super().__init__(gpu, cudart.cudaFree, self.address)


class CudaStream(_CudaResource):
    """A non-blocking stream. handle: an existing stream to use instead, which is not destroyed."""

    def __init__(self, gpu: CudaDevice, handle: int | None = None) -> None:
        cudart, free = gpu.cudart, None
        if handle is None:
            created = cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking)
            handle, free = int(gpu.check_error(created, "create a stream on the GPU")), cudart.cudaStreamDestroy
        super().__init__(gpu, free, handle)
        self.handle = handle

    def synchronize(self, must: bool = True) -> None:
        """Wait for all work in the stream. must: raise `HgfastError` if any of it failed."""
        cudart = self.gpu.cudart
        result = cudart.cudaStreamSynchronize(self.handle)
        if must:
            self.gpu.check_error(result, "finish its work on the GPU")


class CudaGraph(_CudaResource):
    """A captured CUDA graph."""

    def __init__(self, gpu: CudaDevice, executable: Any) -> None:
        cudart = gpu.cudart
        super().__init__(gpu, cudart.cudaGraphExecDestroy, executable)
        self._executable = executable

    def launch(self, stream: CudaStream) -> None:
        cudart = self.gpu.cudart
        self.gpu.check_error(cudart.cudaGraphLaunch(self._executable, stream.handle), "launch its CUDA graph")


def copy_to_device(device: DeviceBuffer, host: PinnedBuffer, stream: CudaStream) -> None:
    """Enqueue a copy of the host's array to the GPU."""
    gpu, cudart = stream.gpu, stream.gpu.cudart
    kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
    result = cudart.cudaMemcpyAsync(device.address, host.address, host.array.nbytes, kind, stream.handle)
    gpu.check_error(result, "copy to the GPU")


def copy_to_host(host: PinnedBuffer, device: DeviceBuffer, stream: CudaStream) -> None:
    """Enqueue a copy from the GPU to the host's array."""
    gpu, cudart = stream.gpu, stream.gpu.cudart
    kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
    result = cudart.cudaMemcpyAsync(host.address, device.address, host.array.nbytes, kind, stream.handle)
    gpu.check_error(result, "copy from the GPU")


def capture_graph(stream: CudaStream, enqueue: Callable[[], object]) -> CudaGraph:
    """Capture the work that `enqueue` adds to a stream, without running it. No other code may use the stream meanwhile.

    Raises:
        HgfastError: CUDA cannot capture it, or `enqueue` raises; the stream is unchanged.
    """
    gpu, cudart = stream.gpu, stream.gpu.cudart
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # other threads may use CUDA meanwhile
    gpu.check_error(cudart.cudaStreamBeginCapture(stream.handle, mode), "begin a CUDA graph")
    graph, capturing = None, True
    try:
        enqueue()
        capturing = False
        graph = gpu.check_error(cudart.cudaStreamEndCapture(stream.handle), "capture a CUDA graph")
        return CudaGraph(gpu, gpu.check_error(cudart.cudaGraphInstantiate(graph, 0), "instantiate its CUDA graph"))
    except BaseException:
        if capturing:
            _, graph = cudart.cudaStreamEndCapture(stream.handle)
        cudart.cudaGetLastError()  # clear the error, which the exception reports
        raise
    finally:
        if graph is not None:
            cudart.cudaGraphDestroy(graph)


def _format_cuda_version(number: int) -> str:
    """13050 -> 13.5."""
    return f"{number // 1000}.{number % 1000 // 10}"
