"""Engines with fakes of CUDA and TensorRT: results, caching, errors and cleanup; versions; CUDA without a GPU."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hgfast.errors import HgfastError
from hgfast.runtime import cuda_memory, tensorrt_engine
from hgfast.runtime.cuda_memory import (
    CudaDevice,
    CudaStream,
    DeviceBuffer,
    GpuNotFound,
    PinnedBuffer,
    copy_to_device,
    copy_to_host,
)
from hgfast.runtime.sidecar import Sidecar, TensorSpec
from hgfast.runtime.tensorrt_engine import CAPTURE_ATTEMPTS, MAX_CACHED_SHAPES, Engine, check_plan_version
from tests.conftest import ROOT
from tests.hgfast.runtime.test_sidecar import make_sidecar

SIDE = 8
VERSION = "11.4.0.106"
runtime = pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")


def engine_sidecar(path: Path, version: str = VERSION, kind: Any = "tensorrt", **builder: Any) -> Sidecar:
    outputs = tuple(TensorSpec(name, "float32", ("batch", 1), "-") for name in ("mean", "double"))
    return make_sidecar(path, export_format=kind, outputs=outputs, builder={"backend": kind, "version": version, **builder})


def fake_plan(magic: bytes = b"ftrt", version: tuple[int, ...] = (11, 4, 0, 106)) -> bytes:
    return magic + bytes(20) + bytes(version) + bytes(100)


class FakeCudart:
    """A CUDA runtime whose GPU memory is this process's. Calls are checked against the signatures of the real one.

    devices: number of GPUs. code: of counting them. versions: of CUDA, of the driver and of the runtime. `alive` are the handles
    that were created and not freed, `calls` the functions called, `failures` the codes of the next calls, by name.
    """

    def __init__(self, devices: int = 2, code: int = 0, versions: tuple[int, int] = (13000, 13000)) -> None:
        self.fixed = {"cudaGetDeviceCount": devices, "cudaDriverGetVersion": versions[0], "cudaRuntimeGetVersion": versions[1]}
        self.failures = {"cudaGetDeviceCount": code} if code else {}
        self.alive: dict[int, Any] = {}
        self.calls: list[str] = []
        self.captured: list[Callable[[], object]] | None = None
        self.thread = threading.local()

    def __getattr__(self, name: str) -> Any:
        real = getattr(runtime, name)
        if not callable(real) or isinstance(real, type):
            return real

        def call(*arguments: Any) -> tuple[Any, ...]:
            signature(real).bind(*arguments)
            self.calls.append(name)
            if name in self.failures:
                self.captured = None if name == "cudaStreamEndCapture" else self.captured
                return runtime.cudaError_t(self.failures.pop(name)), None
            found = self.fixed[name] if name in self.fixed else getattr(self, f"_{name}", lambda *_: None)(*arguments)
            return runtime.cudaError_t.cudaSuccess, found

        return call

    def create(self, content: Any, handle: int = 0) -> int:
        handle = handle or id(content)
        self.alive[handle] = content
        return handle

    def free(self, handle: int) -> None:
        del self.alive[handle]  # KeyError if it is freed twice

    def enqueue(self, work: Callable[[], object]) -> None:
        """Do work, or capture it."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def _cudaGetDevice(self) -> int:
        return getattr(self.thread, "device", 0)

    def _cudaSetDevice(self, device: int) -> None:
        self.thread.device = device

    def _cudaGetErrorName(self, error: Any) -> bytes:
        return str(error.name).encode()

    def _cudaGetErrorString(self, error: Any) -> bytes:
        return b"as CUDA puts it"

    def _cudaMalloc(self, size: int) -> int:
        content = (ctypes.c_ubyte * size)()
        return self.create(content, ctypes.addressof(content))

    def _cudaStreamCreateWithFlags(self, flags: int) -> int:
        assert flags == runtime.cudaStreamNonBlocking
        return self.create(object())

    def _cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> None:
        assert count <= min(len(self.alive[dst]), len(self.alive[src]))
        self.enqueue(lambda: ctypes.memmove(dst, src, count))

    def _cudaStreamBeginCapture(self, stream: int, mode: Any) -> None:
        assert self.captured is None and stream in self.alive  # never a stream of the caller
        assert mode == runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # other threads may use CUDA
        self.captured = []

    def _cudaStreamEndCapture(self, stream: int) -> int:
        work, self.captured = self.captured, None
        return self.create(work)

    def _cudaGraphInstantiate(self, graph: int, flags: int) -> int:
        return self.create(list(self.alive[graph]))

    def _cudaGraphLaunch(self, executable: int, stream: int) -> None:
        for work in self.alive[executable]:
            work()

    _cudaMallocHost = _cudaMalloc
    _cudaFree = _cudaFreeHost = _cudaStreamDestroy = _cudaGraphDestroy = _cudaGraphExecDestroy = free


class FakeTensorRT:
    """A TensorRT whose engines return each image's mean and twice the mean.

    names: of the outputs. fails: a step that fails. rtx: behave as TensorRT-RTX that captures graphs itself ("native"), has no
    such option ("old"), refuses it ("refuses"), or cannot capture ("not capturable").
    """

    __version__ = VERSION
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    EngineInvalidityDiagnostics = SimpleNamespace(__members__={"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2})
    CudaGraphStrategy = SimpleNamespace(DISABLED=0, WHOLE_GRAPH_CAPTURE=1)
    num_io_tensors = 3
    device_memory_size_v2 = 4096

    def __init__(self, names: tuple[str, str] = ("mean", "double"), fails: str = "", rtx: str = "") -> None:
        self.names, self.fails, self.rtx = names, fails, rtx
        self.cudart = FakeCudart()
        self.logger = SimpleNamespace(lines=[])
        self.loaders: list[Any] = []
        self.settings: list[Any] = []
        self.contexts: weakref.WeakSet[FakeContext] = weakref.WeakSet()

    def succeeds(self, step: str) -> bool:
        if self.fails == step:
            self.logger.lines.append(("error", "the reason: none"))
        return self.fails != step

    def Runtime(self, logger: Any) -> Any:
        self.loaders.append(SimpleNamespace(engine_host_code_allowed=False, engine_header_size=64))
        self.loaders[-1].get_engine_validity = lambda header: ("invalid", 2)
        self.loaders[-1].deserialize_cuda_engine = lambda plan: self if self.succeeds("load") else None
        return self.loaders[-1]

    def get_tensor_name(self, index: int) -> str:
        return ("images", *self.names)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "images" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "uint8" if name == "images" else "float32"

    def nptype(self, kind: str) -> Any:
        if not self.succeeds("type"):
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return getattr(np, kind)

    def create_runtime_config(self) -> Any:
        class Refusing(SimpleNamespace):
            cuda_graph_strategy = property(lambda self: 0, lambda self, value: None)

        settings = Refusing() if self.rtx == "refuses" else SimpleNamespace(cuda_graph_strategy=0)
        if self.rtx == "old":
            del settings.cuda_graph_strategy
        settings.set_execution_context_allocation_strategy = lambda strategy: setattr(settings, "strategy", strategy)
        settings.create_runtime_cache = object
        settings.set_runtime_cache = lambda kernels: setattr(settings, "kernels", kernels)
        self.settings.append(settings)
        return settings

    def create_execution_context(self, how: Any) -> Any:
        assert how == "user" if not self.rtx else how.strategy == "user" and how.kernels is not None
        if not self.succeeds("context"):
            return None
        self.contexts.add(context := FakeContext(self))
        return context


class FakeContext:
    def __init__(self, library: FakeTensorRT) -> None:
        self.library = library
        self.addresses: dict[str, int] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        assert len(self.library.cudart.alive[memory]) == size == self.library.device_memory_size_v2

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return self.library.succeeds("shape")

    def get_tensor_shape(self, name: str) -> list[int]:
        return [self.shape[0] if self.library.succeeds("size") else -1, 1]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.library.succeeds("address")

    def is_stream_capturable(self, stream: int) -> bool:
        return self.library.rtx != "not capturable"

    def execute_async_v3(self, stream: int) -> bool:
        cudart, me = self.library.cudart, weakref.proxy(self)
        assert cudart._cudaGetDevice() == getattr(self.library, "device", 0)
        cudart.calls.append("execute")
        cudart.enqueue(lambda: me.run())
        return self.library.succeeds("run" if cudart.captured is None else "capture")

    def run(self) -> None:
        memory = self.library.cudart.alive
        means = np.frombuffer(memory[self.addresses["images"]], np.uint8).reshape(self.shape[0], -1).mean(1)
        for name, values in zip(self.library.names, (means, 2 * means)):
            np.frombuffer(memory[self.addresses[name]], np.float32)[:] = values


@pytest.fixture
def run_fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Engine]]:
    """Returns an `Engine` of a `FakeTensorRT`, which must have freed all GPU resources at the end."""
    used: list[FakeTensorRT] = []
    engines: list[weakref.ref[Engine]] = []

    def start(library: FakeTensorRT, builder: dict[str, Any] | None = None, **options: Any) -> Engine:
        used.append(library)
        kind = "tensorrt_rtx" if library.rtx else "tensorrt"
        path = tmp_path / f"{kind}.engine"
        path.write_bytes(fake_plan(b"vtrt" if library.rtx else b"ftrt"))
        monkeypatch.setattr(tensorrt_engine, "import_tensorrt", lambda name: library)
        monkeypatch.setattr(tensorrt_engine, "check_plan_header", lambda *_: None)
        monkeypatch.setattr(tensorrt_engine, "make_logger", lambda trt: library.logger)
        monkeypatch.setattr(cuda_memory, "import_cudart", lambda what: library.cudart)
        engine = Engine(path, engine_sidecar(path, kind=kind, **(builder or {})), **options)
        engines.append(weakref.ref(engine))
        return engine

    yield start
    for reference in engines:
        if (engine := reference()) is not None:
            engine.close()
    for library in used:
        assert not library.cudart.alive and not library.contexts


def some_images(number: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (number, SIDE, SIDE, 3), dtype=np.uint8)


def check_means(engine: Engine, number: int, seed: int = 0) -> None:
    """Run an engine of a `FakeTensorRT` and check the outputs."""
    images = some_images(number, seed)
    images.flags.writeable = False
    found, means = engine(images), images.mean((1, 2, 3), dtype=np.float32)[:, None]
    assert list(found) == ["mean", "double"]
    np.testing.assert_allclose(found["mean"], means, rtol=1e-4)
    np.testing.assert_allclose(found["double"], 2 * means, rtol=1e-4)


@pytest.mark.parametrize("names", [("mean", "double"), ("output0", "output1")])
def test_runs(run_fake: Callable[..., Engine], names: tuple[str, str]) -> None:
    """The first call with a shape runs the network and captures a graph, which the next ones launch."""
    library = FakeTensorRT(names)
    with run_fake(library) as engine:
        cudart = library.cudart
        for number, captures in ((3, True), (3, False), (2, True), (3, False)):
            cudart.calls.clear()
            check_means(engine, number, len(cudart.calls))
            assert cudart.calls.count("cudaGraphInstantiate") == captures and cudart.calls.count("execute") == 2 * captures
            assert cudart.calls.count("cudaGraphLaunch") == (not captures)
        found = [engine(some_images(2, seed))["mean"] for seed in range(3)]
        assert not np.array_equal(found[0], found[1])  # copies that the next call does not change
        with pytest.raises(HgfastError, match="takes uint8, not float32: convert the images"):
            engine(some_images(3).astype(np.float32))
        assert not engine.warnings and library.loaders[0].engine_host_code_allowed is False
    assert not cudart.alive and not library.contexts
    engine.close()
    with pytest.raises(HgfastError, match=r"engine is closed: create a new Engine"):
        engine(some_images(1))


def test_freed_without_close(run_fake: Callable[..., Engine]) -> None:
    library = FakeTensorRT()
    engine = run_fake(library, {"version_compatible": True})
    check_means(engine, 1)
    assert library.loaders[0].engine_host_code_allowed is True
    del engine
    assert not library.cudart.alive and not library.contexts  # without a garbage collection


def test_least_recently_used_shape_is_evicted(run_fake: Callable[..., Engine]) -> None:
    library = FakeTensorRT()
    engine, cudart = run_fake(library, use_cuda_graphs=False), library.cudart

    def allocates(number: int) -> bool:
        cudart.calls.clear()
        check_means(engine, number)
        return "cudaMalloc" in cudart.calls

    assert all(allocates(number) for number in (1, 2, 3, 4)) and MAX_CACHED_SHAPES == 4
    assert not allocates(1) and allocates(5)  # evicts 2
    assert not any(allocates(number) for number in (1, 3, 4, 5))
    assert allocates(2) and not allocates(4) and allocates(1)
    assert len(library.contexts) == 4 and len(cudart.alive) == 4 * 6 + 2 and "cudaGraphLaunch" not in cudart.calls


@pytest.mark.parametrize("handle", [0, 77])
def test_stream_of_the_caller(run_fake: Callable[..., Engine], handle: int) -> None:
    """It is neither captured nor destroyed."""
    with run_fake(FakeTensorRT(), stream=handle) as engine:
        for seed in range(3):
            check_means(engine, 2, seed)
        assert engine.stream.handle == handle and not engine.warnings


def test_another_gpu(run_fake: Callable[..., Engine]) -> None:
    library = FakeTensorRT()
    library.device = 1  # type: ignore[attr-defined]
    with run_fake(library, device=1) as engine:
        check_means(engine, 1)
        assert library.cudart._cudaGetDevice() == 0
    assert library.cudart._cudaGetDevice() == 0
    for device, complaint in ((2, "finds GPUs 0 to 1: choose another device"), (-1, "on GPU -1 is not possible")):
        with pytest.raises(HgfastError, match=complaint):
            run_fake(FakeTensorRT(), device=device)


def test_threads_take_turns(run_fake: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads share an engine until it is closed."""
    engine, ends, busy = run_fake(FakeTensorRT()), list[str](), threading.Lock()
    run = engine._run

    def exclusive_run(*arguments: Any) -> Any:
        assert busy.acquire(blocking=False)
        time.sleep(0.0002)
        try:
            return run(*arguments)
        finally:
            busy.release()

    monkeypatch.setattr(engine, "_run", exclusive_run)

    def work(index: int) -> None:
        try:
            for turn in range(10_000):
                check_means(engine, 1 + (turn + index) % 6, turn)
        except Exception as error:
            ends.append(str(error))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    time.sleep(0.1)
    engine.close()
    for worker in workers:
        worker.join(60)
    assert ends == [f"{engine.path} is closed: create a new Engine"] * 4
    monkeypatch.undo()


@pytest.mark.parametrize(
    "fails, complaint",
    [
        ("load", r"TensorRT cannot load .* \(the reason: none\): build it on this machine"),
        ("context", r"cannot start \(the reason: none\)"),
        ("shape", r"does not accept input shape \(1, 2\) \(the reason: none\)"),
        ("address", r"takes no buffer for images \(the reason: none\)"),
        ("run", r"failed \(the reason: none\)"),
        ("size", r"does not give the size of mean for input shape \(1, 2\)"),
        ("type", "the type of images in .* does not exist in numpy"),
    ],
)
def test_tensorrt_fails(run_fake: Callable[..., Engine], fails: str, complaint: str) -> None:
    with pytest.raises(HgfastError, match=complaint):
        run_fake(FakeTensorRT(fails=fails))(np.zeros((1, 2), np.uint8))
    library = FakeTensorRT()
    engine = run_fake(library)
    for _ in range(2):
        library.fails = fails
        if fails not in ("load", "type"):
            with pytest.raises(HgfastError, match=complaint):
                engine(np.zeros((1, 2), np.uint8))
        library.fails = ""
        check_means(engine, 2)


@pytest.mark.parametrize("name", ["cudaSetDevice", "cudaStreamCreateWithFlags", "cudaMalloc"])
@pytest.mark.parametrize("code", [2, 700])
def test_cuda_fails_at_the_start(run_fake: Callable[..., Engine], name: str, code: int) -> None:
    library = FakeTensorRT()
    library.cudart.failures[name] = code
    reason = {2: "MemoryAllocation, as CUDA puts it.: free GPU", 700: "IllegalAddress, as CUDA puts it.: restart the program"}
    with pytest.raises(HgfastError, match=rf"engine cannot .* \(cudaError{reason[code]}"):
        run_fake(library)
    check_means(run_fake(library), 1)


RUN_CALLS = ["cudaSetDevice", "cudaMallocHost", "cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaGraphLaunch"]


@pytest.mark.parametrize("name", RUN_CALLS)
def test_cuda_fails_in_a_call(run_fake: Callable[..., Engine], name: str) -> None:
    library = FakeTensorRT()
    engine = run_fake(library)
    for _ in range(2):
        if name == "cudaGraphLaunch":
            check_means(engine, 2)
        library.cudart.failures[name] = 700
        with pytest.raises(
            HgfastError, match=r"engine cannot .* \(cudaErrorIllegalAddress, as CUDA puts it\): restart the program"
        ):
            engine(some_images(2))
        assert name == "cudaSetDevice" or not library.contexts
        check_means(engine, 2)
        engine._release_shape(some_images(2).shape)


CAPTURE_CALLS = ["cudaStreamBeginCapture", "cudaMemcpyAsync", "cudaStreamEndCapture", "cudaGraphInstantiate"]


@pytest.mark.parametrize("name", [*CAPTURE_CALLS, "capture"])
def test_missing_graph_is_reported(run_fake: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    library = FakeTensorRT(fails=name)
    engine, cudart, capture = run_fake(library), library.cudart, cuda_memory.capture_graph

    attempts: list[str] = []

    def failing_capture(*arguments: Any) -> Any:
        attempts.append(name)
        cudart.failures |= {name: 700} if name != "capture" else {}
        return capture(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cuda_memory, "capture_graph", failing_capture)
        for seed in range(3):
            check_means(engine, 2, seed)
    assert "cudaGraphLaunch" not in cudart.calls and cudart.captured is None
    assert len(cudart.alive) == 6 + 2  # no graph
    reason = "the reason: none" if name == "capture" else "cudaErrorIllegalAddress, as CUDA puts it"
    (warning,) = engine.warnings
    assert warning.startswith(f"images of shape (2, {SIDE}, {SIDE}, 3) run without a CUDA graph: {engine.path} ")
    assert warning.endswith(f"({reason})") and attempts == [name] * CAPTURE_ATTEMPTS
    library.fails = ""
    check_means(engine, 1)
    assert engine._shape_contexts[some_images(1).shape].graph is not None and len(engine.warnings) == 1


@pytest.mark.parametrize("name", [*CAPTURE_CALLS, "capture"])
def test_failed_capture_is_repeated_once(run_fake: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Another thread may invalidate a capture, as DALI does when it frees memory."""
    library = FakeTensorRT()
    engine, cudart, capture = run_fake(library), library.cudart, cuda_memory.capture_graph
    attempts: list[str] = []

    def capture_that_fails_first(*arguments: Any) -> Any:
        attempts.append(name)
        library.fails = "capture" if name == "capture" and len(attempts) == 1 else ""
        cudart.failures |= {name: 901} if name != "capture" and len(attempts) == 1 else {}
        return capture(*arguments)

    monkeypatch.setattr(cuda_memory, "capture_graph", capture_that_fails_first)
    for seed in range(3):
        check_means(engine, 2, seed)
    assert len(attempts) == 2 and not engine.warnings and cudart.calls.count("cudaGraphLaunch") == 2


def test_interrupted_while_capturing(run_fake: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeTensorRT()
    engine = run_fake(library)

    def interrupt(step: str) -> bool:
        if step == "capture":
            raise KeyboardInterrupt
        return True

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(library, "succeeds", interrupt)
        engine(some_images(1))
    assert library.cudart.captured is None and len(library.cudart.alive) == 2
    check_means(engine, 1)


@pytest.mark.parametrize("rtx, graphs", [("native", 0), ("not capturable", 0), ("old", 1), ("refuses", 1)])
def test_rtx_captures_by_itself(run_fake: Callable[..., Engine], rtx: str, graphs: int) -> None:
    library = FakeTensorRT(rtx=rtx)
    engine = run_fake(library)
    for turn in range(20):
        check_means(engine, 1 + turn % 6)
    assert ("cudaGraphInstantiate" in library.cudart.calls) == bool(graphs) and len(library.settings) == 1
    assert getattr(library.settings[0], "cuda_graph_strategy", 0) == 1 - graphs
    assert len(engine.warnings) == (6 if rtx == "not capturable" else 0)  # one for each shape, however often it is evicted
    assert all(warning.endswith("according to TensorRT-RTX") for warning in engine.warnings)
    engine = run_fake(library, use_cuda_graphs=False)
    check_means(engine, 2)
    assert getattr(library.settings[1], "cuda_graph_strategy", 0) == 0 and not engine.warnings


def test_rtx_engine_of_another_gpu(run_fake: Callable[..., Engine]) -> None:
    advice = "it was built for compute capability 8.6, so build it for this GPU with --compute-capabilities, or with TensorRT"
    with pytest.raises(HgfastError, match=rf"cannot load .* \(UNSUPPORTED_CC; the reason: none\): {advice}"):
        run_fake(FakeTensorRT(fails="load", rtx="native"), {"hardware": "compute capability 8.6"})


def test_other_outputs_than_the_sidecars(run_fake: Callable[..., Engine]) -> None:
    with pytest.raises(HgfastError, match="gives mean, median, but its sidecar has images and mean, double"):
        run_fake(FakeTensorRT(("mean", "median")))


# ---- CUDA ----


@pytest.mark.parametrize(
    "cudart, complaint",
    [
        (FakeCudart(code=35, versions=(0, 13000)), "no NVIDIA driver is installed: use a machine that has one"),
        (
            FakeCudart(code=35, versions=(12040, 13050)),
            r"supports CUDA up to 12.4, but cuda-bindings needs 13.5: update the driver, or pip install 'cuda-bindings==12.\*'$",
        ),
        (FakeCudart(code=35, versions=(11080, 13050)), r"supports CUDA up to 11.8, .* needs 13.5: update the driver$"),
        (FakeCudart(code=100), r"CUDA finds none that it can use \(cudaErrorNoDevice, as CUDA puts it\): use a machine"),
        (FakeCudart(devices=0), "CUDA finds none: use a machine that has one, or export to ONNX"),
    ],
)
def test_no_gpu(monkeypatch: pytest.MonkeyPatch, cudart: FakeCudart, complaint: str) -> None:
    monkeypatch.setattr(cuda_memory, "import_cudart", lambda what: cudart)
    with pytest.raises(GpuNotFound, match=f"running hand.engine needs an NVIDIA GPU, and .*{complaint}"):
        CudaDevice(what="hand.engine")


def test_one_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_memory, "import_cudart", lambda what: FakeCudart(devices=1))
    with pytest.raises(HgfastError, match=r"running hand\.engine on GPU 1 is not possible, because CUDA finds only GPU 0"):
        CudaDevice(1, "hand.engine")


def test_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = FakeCudart()
    monkeypatch.setattr(cuda_memory, "import_cudart", lambda what: cudart)
    gpu = CudaDevice()
    host, device, stream = PinnedBuffer(gpu, (2, 3), np.float16), DeviceBuffer(gpu, 12), CudaStream(gpu)
    host.array[:] = [[1, 2, 3], [4, 5, 6]]
    copy_to_device(device, host, stream)
    host.array[:] = 0
    copy_to_host(host, device, stream)
    assert host.array.tolist() == [[1, 2, 3], [4, 5, 6]] and host.array.dtype == np.float16
    for _ in range(2):
        for resource in (host, device, stream):
            resource.close()
    assert not cudart.alive and host.array.size == 0
    for shape in ((0, 5), (), (1,)):
        empty = PinnedBuffer(gpu, shape, np.float32)
        assert empty.array.shape == shape
    DeviceBuffer(gpu, 0).close()
    del empty
    assert not cudart.alive
    left = DeviceBuffer(gpu, 1)
    cudart.failures |= {"cudaFree": 700, "cudaSetDevice": 700}
    left.close()  # such errors are ignored


def test_real_cuda_without_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(GpuNotFound, match=r"running it needs an NVIDIA GPU, and .*: \w+"):
        CudaDevice(what="it")


def test_no_torch_to_import_it() -> None:
    code = "import sys, hgfast.runtime.tensorrt_engine; assert not {'torch', 'cuda'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# ---- versions ----


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engine, "import_tensorrt", lambda name: SimpleNamespace(__version__=VERSION))
    plan = fake_plan(version=(10, 13, 3, 9))
    with pytest.raises(HgfastError, match=r"was built by TensorRT 10.13.3.9, but 11.4.0.106 is installed here"):
        check_plan_version(plan, "tensorrt", "10.13.3.9", False, "it")
    check_plan_version(plan, "tensorrt", "10.13.3.9", True, "it")
    with pytest.raises(HgfastError, match=r"11.4.0.300 or newer"):
        check_plan_version(fake_plan(version=(11, 4, 0, 300 % 256)), "tensorrt", "11.4.0.300", True, "it")
    check_plan_version(fake_plan(), "tensorrt", VERSION, False, "it")
