"""Memory, streams and graphs on an NVIDIA GPU, by NVIDIA's cuda-bindings and without torch.

    gpu = Gpu(what="hand.engine")
    with gpu.current(), Stream(gpu) as stream, HostBuffer(gpu, (2, 3), np.float32) as host, DeviceBuffer(gpu, 24) as device:
        copy_in(gpu, device, host, stream)
        stream.synchronize()

What is made here is freed by `close`, at the end of a `with`, or, where both were forgotten, with the object itself.
What may enter: what is CUDA's, as far as an engine needs it. Nothing of TensorRT's; no arrays on the GPU, no arithmetic.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import weakref
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hgfast.errors import HgfastError

Self = TypeVar("Self", bound="_Owned")
ELSEWHERE = "use a machine that has one, or export to ONNX, which runs without"


class NoGpu(HgfastError):
    """All is whole, but there is no GPU here to run it on."""


def import_cudart(what: str) -> Any:
    """The CUDA runtime of cuda-bindings, which can be imported without a GPU too. what: needs it, for messages."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        told = "" if isinstance(error, ModuleNotFoundError) else f" ({' '.join(str(error).split())[:200]})"
        raise HgfastError(
            f"running {what} needs cuda-bindings, which keeps its memory on the GPU{told}: pip install cuda-bindings"
        ) from error


class Gpu:
    """One of the machine's GPUs. device: its number, as CUDA counts. what: is run there, for messages.

    Raises:
        NoGpu: no driver, one that is too old, or no GPU, and which of them.
        HgfastError: cuda-bindings is not installed, or there are GPUs but not this one.
    """

    def __init__(self, device: int = 0, what: str = "this") -> None:
        self.cudart = cudart = import_cudart(what)
        self.device, self.what = device, what
        code, count = cudart.cudaGetDeviceCount()
        if code != cudart.cudaError_t.cudaSuccess or count == 0:
            raise NoGpu(f"running {what} needs an NVIDIA GPU, and {self._none(code)}")
        if not 0 <= device < count:
            there = "only GPU 0" if count == 1 else f"GPUs 0 to {count - 1}"
            raise HgfastError(f"running {what} on GPU {device} is not possible where CUDA finds {there}: choose of these")

    def check(self, result: tuple[Any, ...], doing: str) -> Any:
        """What a function of the CUDA runtime gives besides its code. doing: what it was called for, after "cannot".

        Raises:
            HgfastError: the code is an error's.
        """
        code, *given = result
        if code != self.cudart.cudaError_t.cudaSuccess:
            full = code == self.cudart.cudaError_t.cudaErrorMemoryAllocation
            advice = "free memory there, or take fewer images at once" if full else "start again, or update the driver"
            raise HgfastError(f"{self.what} cannot {doing} ({self.describe(code)}): {advice}")
        return given[0] if given else None

    def describe(self, code: Any) -> str:
        """An error's name and what CUDA says of it."""
        cudart = self.cudart
        _, name = cudart.cudaGetErrorName(code)
        _, text = cudart.cudaGetErrorString(code)
        return ", ".join(part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in (name, text))

    @contextlib.contextmanager
    def current(self, must: bool = True) -> Iterator[None]:
        """This GPU as the one that the calling thread uses, until the end of the `with`. must: raise where that fails."""
        cudart = self.cudart
        _, before = cudart.cudaGetDevice()
        result = cudart.cudaSetDevice(self.device)
        if must:
            self.check(result, f"use GPU {self.device}")
        try:
            yield
        finally:
            if before is not None and before != self.device:
                cudart.cudaSetDevice(before)

    def _none(self, code: Any) -> str:
        """Why there is no GPU, and what to do."""
        cudart = self.cudart
        if code == cudart.cudaError_t.cudaSuccess:
            return f"CUDA finds none: {ELSEWHERE}"
        if code != cudart.cudaError_t.cudaErrorInsufficientDriver:
            return f"CUDA finds none that it can use ({self.describe(code)}): {ELSEWHERE}"
        _, driver = cudart.cudaDriverGetVersion()
        if not driver:
            return f"no driver of NVIDIA's is installed here: {ELSEWHERE}"
        _, needed = cudart.cudaRuntimeGetVersion()
        older = f", or pip install 'cuda-bindings=={driver // 1000}.*'" if 12 <= driver // 1000 < needed // 1000 else ""
        return (
            f"the driver here knows CUDA up to {_version(driver)}, where cuda-bindings is of {_version(needed)}: "
            f"update the driver{older}"
        )


class _Owned:
    """Something of CUDA's that is freed once. free: takes the handle."""

    def __init__(self, gpu: Gpu, free: Callable[[Any], object] | None, handle: Any) -> None:
        self.gpu = gpu
        self._finalizer = None if free is None else weakref.finalize(self, _release, gpu, free, handle)

    def close(self) -> None:
        """Free it; again does nothing. No work on the GPU may use it any longer."""
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _release(gpu: Gpu, free: Callable[[Any], object], handle: Any) -> None:
    # what CUDA refuses to free, as after a failure on the GPU, goes with the process: nobody could do more about it
    with gpu.current(must=False):
        free(handle)


class HostBuffer(_Owned):
    """An array in page-locked memory, which the GPU copies from and to by itself. `array` ends with `close`."""

    def __init__(self, gpu: Gpu, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        cudart, kind = gpu.cudart, np.dtype(dtype)
        size = max(1, prod(shape) * kind.itemsize)
        address = int(gpu.check(cudart.cudaMallocHost(size), f"lock {size} bytes of memory for copies to and from the GPU"))
        super().__init__(gpu, cudart.cudaFreeHost, address)
        self.address, self.nbytes = address, prod(shape) * kind.itemsize
        raw = memoryview((ctypes.c_ubyte * size).from_address(address))
        self.array: NDArray[Any] = np.frombuffer(raw, kind, prod(shape)).reshape(shape)

    def close(self) -> None:
        self.array = np.empty(0, self.array.dtype)
        super().close()


class DeviceBuffer(_Owned):
    """Memory on the GPU, at `address`."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        cudart = gpu.cudart
        self.nbytes = nbytes
        self.address = int(gpu.check(cudart.cudaMalloc(max(1, nbytes)), f"keep {nbytes} bytes on GPU {gpu.device}"))
        super().__init__(gpu, cudart.cudaFree, self.address)


class Stream(_Owned):
    """A queue of work for the GPU that waits for no other. handle: somebody else's to use instead, which stays theirs."""

    def __init__(self, gpu: Gpu, handle: int | None = None) -> None:
        cudart = gpu.cudart
        made = handle is None
        if made:
            handle = int(gpu.check(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking), "make a stream on the GPU"))
        super().__init__(gpu, cudart.cudaStreamDestroy if made else None, handle)
        self.handle: int = handle or 0

    def synchronize(self) -> None:
        """Wait until all that is in it is done. Raises `HgfastError` for what failed on the GPU meanwhile."""
        cudart = self.gpu.cudart
        self.gpu.check(cudart.cudaStreamSynchronize(self.handle), "finish its work on the GPU")

    def settle(self) -> None:
        """As `synchronize`, whatever comes of it."""
        cudart = self.gpu.cudart
        cudart.cudaStreamSynchronize(self.handle)


class Graph(_Owned):
    """Work that was captured once and is launched as a whole."""

    def __init__(self, gpu: Gpu, executable: Any) -> None:
        cudart = gpu.cudart
        super().__init__(gpu, cudart.cudaGraphExecDestroy, executable)
        self._executable = executable

    def launch(self, stream: Stream) -> None:
        cudart = self.gpu.cudart
        self.gpu.check(cudart.cudaGraphLaunch(self._executable, stream.handle), "launch its CUDA graph")


def copy_in(gpu: Gpu, device: DeviceBuffer, host: HostBuffer, stream: Stream) -> None:
    """To the GPU, once the stream gets to it."""
    cudart = gpu.cudart
    kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
    gpu.check(cudart.cudaMemcpyAsync(device.address, host.address, host.nbytes, kind, stream.handle), "copy to the GPU")


def copy_out(gpu: Gpu, host: HostBuffer, device: DeviceBuffer, stream: Stream) -> None:
    """From the GPU, once the stream gets to it."""
    cudart = gpu.cudart
    kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
    gpu.check(cudart.cudaMemcpyAsync(host.address, device.address, host.nbytes, kind, stream.handle), "copy from the GPU")


def capture(gpu: Gpu, stream: Stream, work: Callable[[], object]) -> Graph:
    """What `work` puts into a stream, as a graph; none of it is done. Nobody else may use the stream meanwhile.

    Raises:
        HgfastError: CUDA makes no graph of it, or `work` raises; the stream is as before.
    """
    cudart = gpu.cudart
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # what other threads do meanwhile does not matter
    gpu.check(cudart.cudaStreamBeginCapture(stream.handle, mode), "begin a CUDA graph")
    try:
        work()
    except BaseException:
        _, graph = cudart.cudaStreamEndCapture(stream.handle)
        if graph is not None:
            cudart.cudaGraphDestroy(graph)
        cudart.cudaGetLastError()  # forgets it: it is told of by exception
        raise
    try:
        graph = gpu.check(cudart.cudaStreamEndCapture(stream.handle), "capture a CUDA graph")
    except HgfastError:
        cudart.cudaGetLastError()
        raise
    try:
        return Graph(gpu, gpu.check(cudart.cudaGraphInstantiate(graph, 0), "instantiate its CUDA graph"))
    finally:
        cudart.cudaGraphDestroy(graph)


def _version(number: int) -> str:
    """13050 -> 13.5."""
    return f"{number // 1000}.{number % 1000 // 10}"
