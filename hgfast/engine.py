"""TensorRT engines: the library that runs them, the header of a plan, and an engine that takes and gives numpy arrays.

What may enter: what running an engine needs, for TensorRT 10 and 11 and TensorRT-RTX alike. Building is export/engines.py's,
memory, streams and graphs are hgfast/gpu_memory.py's; torch is not needed.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.gpu_memory import DeviceBuffer, Gpu, Graph, HostBuffer, Stream, capture, copy_in, copy_out
from hgfast.gpu_memory import NoGpu as NoGpu
from hgfast.sidecar import Sidecar

Library = Literal["tensorrt", "tensorrt_rtx"]
NAMES: dict[Library, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
PACKAGES: dict[Library, str] = {
    "tensorrt": "tensorrt-cu13",
    "tensorrt_rtx": "tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
}
MAGIC: dict[bytes, Library] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}  # trtexec's kPLAN_FILE_TAG; the other by looking
HEADER = 64  # bytes; what `Runtime.engine_header_size` is
KEPT = 4  # shapes of images whose buffers and graphs an engine keeps


class Missing(HgfastError):
    """A library that cannot be imported. why: without what to install."""

    def __init__(self, why: str, packages: str) -> None:
        super().__init__(f"{why}: {packages}")
        self.why = why


def import_tensorrt(name: Library) -> Any:
    """The Python module of TensorRT or TensorRT-RTX, be the package that carries its name installed or only the bindings.

    Raises:
        Missing: it is not installed, or its shared libraries are not, with the packages to install.
    """
    complaints = []
    for module in (name, f"{name}_bindings"):
        try:
            return importlib.import_module(module)
        except (ImportError, OSError, AssertionError) as error:  # a package whose parts differ in version asserts
            complaints.append(str(error))
    told = next((words for words in complaints if not words.startswith("No module named")), complaints[0])
    raise Missing(f"{NAMES[name]} cannot be imported ({one_line(told)})", f"pip install {PACKAGES[name]}")


_LISTENERS: dict[type, Any] = {}


def listen(trt: Any) -> Any:
    """The logger to give to a library, its `lines` forgotten: pairs of "error" or "warning" and what it said.

    There is one for each library, as TensorRT-RTX keeps the first that it gets for the whole process.
    """
    if trt.ILogger not in _LISTENERS:
        kinds = {"WARNING": "warning", "ERROR": "error", "INTERNAL_ERROR": "error"}

        class Listener(trt.ILogger):  # type: ignore[misc]  # the library has no stubs
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.lines: list[tuple[str, str]] = []

            def log(self, severity: Any, msg: str) -> None:
                if severity.name in kinds:
                    self.lines.append((kinds[severity.name], one_line(msg)))

        _LISTENERS[trt.ILogger] = Listener()
    logger = _LISTENERS[trt.ILogger]
    logger.lines.clear()
    return logger


def heard(logger: Any, kind: Literal["error", "warning"]) -> tuple[str, ...]:
    """What a logger of `listen` has heard since, of one kind, every line once."""
    return tuple(dict.fromkeys(text for found, text in logger.lines if found == kind))


def reasons(logger: Any) -> str:
    """The last errors that a logger of `listen` has heard, for an error's parentheses."""
    # what the library itself trips over where there is no driver says nothing of the cause
    told = [text for text in heard(logger, "error") if not text.startswith("[checkMacros.cpp")]
    return "; ".join(told[-3:]) or "it does not say why"


def plan_library(plan: bytes) -> Library | None:
    """Whose plan this is, or None for what is no plan."""
    return MAGIC.get(plan[:4])


def plan_version(plan: bytes) -> tuple[int, int, int, int] | None:
    """The version of the library that built a plan, each of its numbers modulo 256, or None for what is no plan."""
    if plan_library(plan) is None or len(plan) < HEADER:
        return None
    return plan[24], plan[25], plan[26], plan[27]


def check_header(plan: bytes, name: Library, what: str) -> None:
    """See by its header, without a GPU, that a plan is whole and for this library. `what` it is, for messages.

    Raises:
        HgfastError: no plan, another library's, or one that was cut short or changed.
    """
    found = plan_library(plan)
    if found is None or len(plan) < HEADER:
        raise HgfastError(
            f"{what} is no {NAMES[name]} engine, which would begin with other bytes: copy it again or build it again"
        )
    if found != name:
        raise HgfastError(
            f"{what} is an engine of {NAMES[found]}, not of {NAMES[name]}: run it with {NAMES[found]} or build it again"
        )
    if name == "tensorrt_rtx":
        size = int.from_bytes(plan[16:24], "little")
        if size != len(plan):
            raise HgfastError(f"{what} has {len(plan)} bytes where its header says {size}: copy it again or build it again")
        trt = import_tensorrt(name)
        runtime = trt.Runtime(listen(trt))
        diagnostics = runtime.get_engine_validity(plan[: runtime.engine_header_size])[1]
        if diagnostics & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE):
            raise HgfastError(f"the header of {what} is broken, as {NAMES[name]} finds: copy it again or build it again")


def check_version(plan: bytes, name: Library, built: str, compatible: bool, what: str) -> None:
    """See that the installed library is of the version that built a plan, or, of a version-compatible one, newer.

    built: the version that the sidecar names; the plan's header must agree with it. `what` it is, for messages.

    Raises:
        HgfastError: the library is missing, or of a version that does not run the plan.
    """
    installed = str(import_tensorrt(name).__version__)
    header = plan_version(plan)
    numbers = tuple(number % 256 for number in _numbers(built))
    if header is not None and header[: len(numbers)] != numbers[:4]:
        said = ".".join(map(str, header))
        raise HgfastError(
            f"{what} was built by {NAMES[name]} {said}, as its header says, and its sidecar says {built}: build it again"
        )
    if installed == built or (compatible and _numbers(installed) >= _numbers(built)):
        return
    need = f"{built} or newer" if compatible else built
    raise HgfastError(
        f"{what} was built by {NAMES[name]} {built} and {installed} is installed here, which does not run it: "
        f"build it again here, or install {NAMES[name]} {need}"
    )


@dataclass
class _Lane:
    """What runs images of one shape: a context of its own, buffers on both sides by the engine's names, and a graph.

    One context a shape, as a graph is only valid for as long as nothing of the context that it was captured from changes.
    """

    context: Any
    host: dict[str, HostBuffer] = field(default_factory=dict)
    device: dict[str, DeviceBuffer] = field(default_factory=dict)
    graph: Graph | None = None
    warm: bool = False

    def close(self) -> None:
        for owned in (self.graph, *self.host.values(), *self.device.values()):
            if owned is not None:
                owned.close()
        self.context = self.graph = None


class Engine:
    """An engine on the GPU, ready to run: `engine(images)` -> what `sidecar.outputs` names, as arrays.

    Threads may share one: a lock is held for a call, so they take turns. A process may have several. The buffers on the GPU,
    a CUDA graph among them, are kept for the last `KEPT` shapes of images, and freed by `close`, at the end of a `with`, or with
    the engine. `notes` has sentences on what did not work and was done in a slower way.

    Args:
        path: the plan.
        sidecar: as `hgfast.sidecar.read` gives it.
        stream: the handle of a CUDA stream of the GPU, to work in; it must outlive the engine. None makes one.
        graphs: launch the network as one CUDA graph from the second call with a shape on.
        device: the number of the GPU.

    Raises:
        HgfastError: the plan is broken or of another version than the library, the library or cuda-bindings is missing, or the
            library refuses the plan.
        NoGpu: there is no GPU.
    """

    def __init__(self, path: Path, sidecar: Sidecar, *, stream: int | None = None, graphs: bool = True, device: int = 0) -> None:
        if sidecar.kind not in NAMES or sidecar.builder is None:
            raise HgfastError(f"{path} is no TensorRT engine, as its sidecar says: run it with what made it")
        self.path, self.sidecar = path, sidecar
        self.name: Library = "tensorrt_rtx" if sidecar.kind == "tensorrt_rtx" else "tensorrt"
        name, compatible = self.name, bool(sidecar.builder.get("version_compatible"))
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise HgfastError(f"{path} cannot be read ({error.strerror}): check where it lies") from error
        trt = import_tensorrt(name)
        check_header(plan, name, str(path))
        check_version(plan, name, str(sidecar.builder["version"]), compatible, str(path))
        self.gpu = Gpu(device, str(path))
        self.trt, self.logger = trt, listen(trt)
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._lanes: OrderedDict[tuple[int, ...], _Lane] = OrderedDict()
        self._scratch: DeviceBuffer | None = None
        self._captures, self._captures_itself = graphs, False
        self.runtime: Any = None
        self.engine: Any = None
        self.context: Any = None
        self.settings: Any = None
        self.kernels: Any = None
        with self.gpu.current():
            self.stream = Stream(self.gpu, stream)
            # in a stream of somebody else's, work of theirs could get into a graph
            self._aside = self.stream if stream is None else Stream(self.gpu)
            try:
                self._load(plan, compatible, graphs)
            except BaseException:
                self.close()
                raise

    def __call__(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """(N, ...) as `sidecar.input` has it -> one array (N, ...) for each of `sidecar.outputs`, by name.

        Raises:
            HgfastError: the engine does not take images of this shape or type, fails, or is closed.
        """
        with self._lock:
            if self.engine is None:
                raise HgfastError(f"{self.path} is closed: open it again")
            wanted = self._types[self.input]
            if images.dtype != wanted:
                raise HgfastError(f"{self.path} takes {wanted}, not {images.dtype}: convert the images")
            with self.gpu.current():
                lane = self._lane(images.shape)
                try:
                    return self._run(lane, images)
                except BaseException:
                    self._forget(images.shape)
                    raise

    def close(self) -> None:
        """Free all that the engine has on the GPU; again does nothing."""
        with self._lock, self.gpu.current(must=False):
            for shape in list(self._lanes):
                self._forget(shape)
            # before the memory that they may use
            self.context = self.settings = self.kernels = self.engine = self.runtime = None
            for owned in (self._scratch, self._aside, self.stream):
                if owned is not None:
                    owned.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, plan: bytes, compatible: bool, graphs: bool) -> None:
        """The plan as an engine, with scratch memory for one shape at a time and the first context."""
        trt, name = self.trt, NAMES[self.name]
        runtime = trt.Runtime(self.logger)
        if compatible:
            runtime.engine_host_code_allowed = True  # such a plan carries the runtime of the version that built it
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise HgfastError(f"{name} cannot load {self.path} ({self._why(runtime, plan)}): build it on this machine")
        self.runtime, self.engine = runtime, engine
        self.input, self.outputs = self._ports()
        self._types = {port: self._dtype(port) for port in (self.input, *self.outputs.values())}
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.name == "tensorrt_rtx":
            settings = engine.create_runtime_config()
            settings.set_execution_context_allocation_strategy(strategy)
            self.kernels = kernels = settings.create_runtime_cache()
            settings.set_runtime_cache(kernels)  # so that a kernel is compiled for the first context and not for each
            if graphs and hasattr(settings, "cuda_graph_strategy"):
                # it knows better than anybody when its kernels for a shape are ready to be captured
                settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
                self._captures_itself = settings.cuda_graph_strategy == trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self.settings = settings
        self._scratch = DeviceBuffer(self.gpu, engine.device_memory_size_v2)
        self._start()

    def _start(self) -> None:
        """Make `context`, for the next shape to come."""
        trt, engine, settings, scratch = self.trt, self.engine, self.settings, self._scratch
        assert scratch is not None
        self.logger.lines.clear()
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(strategy if settings is None else settings)
        if context is None:
            raise HgfastError(
                f"{self.path} cannot start ({reasons(self.logger)}): free memory on the GPU, or build a smaller batch"
            )
        context.set_device_memory(scratch.address, scratch.nbytes)
        self.context = context

    def _lane(self, shape: tuple[int, ...]) -> _Lane:
        """What runs images of a shape, made at the first; where it is one too many, the one that rested longest goes."""
        if shape in self._lanes:
            self._lanes.move_to_end(shape)
            return self._lanes[shape]
        if self.context is None:
            self._start()
        context = self.context
        self.logger.lines.clear()
        if not context.set_input_shape(self.input, shape):
            raise HgfastError(
                f"{self.path} takes no images of shape {shape} ({reasons(self.logger)}): give what its sidecar names"
            )
        while len(self._lanes) >= KEPT:
            self._forget(next(iter(self._lanes)))
        lane = _Lane(context)
        self.context = None
        try:
            self._fill(lane, shape)
        except BaseException:
            lane.close()
            raise
        self._lanes[shape] = lane
        return lane

    def _fill(self, lane: _Lane, shape: tuple[int, ...]) -> None:
        """Buffers on both sides for images of a shape."""
        context = lane.context
        shapes = {self.input: shape}
        shapes |= {port: tuple(context.get_tensor_shape(port)) for port in self.outputs.values()}
        for port, size in shapes.items():
            if min(size, default=0) < 0:
                raise HgfastError(f"{self.path} does not say how large {port} gets for images of shape {shape}: export it again")
            kind = self._types[port]
            lane.host[port] = HostBuffer(self.gpu, size, kind)
            lane.device[port] = DeviceBuffer(self.gpu, prod(size) * kind.itemsize)
            if not context.set_tensor_address(port, lane.device[port].address):
                raise HgfastError(f"{self.path} takes no buffer for {port} ({reasons(self.logger)}): build it again")

    def _run(self, lane: _Lane, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """One call. The first warms the lane up, as capturing needs."""
        np.copyto(lane.host[self.input].array, images)
        if lane.graph is None:
            self._enqueue(lane, self.stream)
        else:
            lane.graph.launch(self.stream)
        self.stream.synchronize()
        found = {name: lane.host[port].array.copy() for name, port in self.outputs.items()}
        if not lane.warm:
            lane.warm = True
            self._capture(lane)
        return found

    def _enqueue(self, lane: _Lane, stream: Stream) -> None:
        """The images to the GPU, the network, and what it gives from the GPU."""
        context = lane.context
        copy_in(self.gpu, lane.device[self.input], lane.host[self.input], stream)
        self.logger.lines.clear()
        if not context.execute_async_v3(stream.handle):
            raise HgfastError(f"{self.path} failed ({reasons(self.logger)}): build it again on this machine")
        for port in self.outputs.values():
            copy_out(self.gpu, lane.host[port], lane.device[port], stream)

    def _capture(self, lane: _Lane) -> None:
        """The lane's graph, or a note that there is none."""
        context, shape = lane.context, lane.host[self.input].array.shape
        why = ""
        if self.name == "tensorrt_rtx" and self._captures_itself:
            if not context.is_stream_capturable(self.stream.handle):
                why = f"{self.path} cannot be captured in this stream, as TensorRT-RTX finds"
        elif self._captures:
            try:
                lane.graph = capture(self.gpu, self._aside, lambda: self._enqueue(lane, self._aside))
            except HgfastError as error:
                why = str(error).rpartition("): ")[0] + ")"  # without the advice, which is for those whose call fails
        note = f"images of shape {shape} run without a CUDA graph: {why}"
        if why and note not in self.notes:
            self.notes.append(note)

    def _forget(self, shape: tuple[int, ...]) -> None:
        """Free what runs images of a shape, once the GPU is done with it."""
        self.stream.settle()
        self._lanes.pop(shape).close()

    def _ports(self) -> tuple[str, dict[str, str]]:
        """The engine's name of its input, and of the output that each of the sidecar's outputs is.

        Torch-TensorRT calls outputs output0, output1 and so on, in their order.
        """
        trt, engine = self.trt, self.engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        given = [name for name in names if name not in inputs]
        wanted = [port.name for port in self.sidecar.outputs]
        numbered = [f"output{index}" for index in range(len(wanted))]
        if len(inputs) == 1 and set(given) == set(wanted):
            return inputs[0], {name: name for name in wanted}
        if len(inputs) == 1 and set(given) == set(numbered):
            return inputs[0], dict(zip(wanted, numbered))
        raise HgfastError(
            f"{self.path} takes {', '.join(inputs)} and gives {', '.join(given)}, where its sidecar has "
            f"{self.sidecar.input.name} and {', '.join(wanted)}: export again"
        )

    def _dtype(self, port: str) -> np.dtype[Any]:
        """The numpy type of one of the engine's inputs and outputs."""
        trt, engine = self.trt, self.engine
        try:
            return np.dtype(trt.nptype(engine.get_tensor_dtype(port)))
        except TypeError as error:
            raise HgfastError(f"{self.path} has {port} in a type that numpy does not know: export it again") from error

    def _why(self, runtime: Any, plan: bytes) -> str:
        """What is known of why a plan was refused."""
        told = reasons(self.logger)
        if self.name == "tensorrt_rtx":  # TensorRT has no such question
            trt = self.trt
            found = runtime.get_engine_validity(plan[: runtime.engine_header_size])[1]
            members = trt.EngineInvalidityDiagnostics.__members__
            told = "; ".join([*(key for key, bit in members.items() if int(found) & int(bit)), told])
        return told


def _numbers(version: str) -> tuple[int, ...]:
    """A version's numbers up to the first part that is none."""
    parts: list[int] = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def one_line(text: str) -> str:
    """A message of the library, which may go on for pages, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= 400 else f"{line[:397]}..."
