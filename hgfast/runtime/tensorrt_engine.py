"""Run TensorRT engines on numpy arrays, without torch: import of the library, checks of a plan's header, and `Engine`.

Supports TensorRT 10 and 11 and TensorRT-RTX. export/exporter/trt_builder.py builds engines; hgfast/runtime/cuda_memory.py
provides memory, streams and graphs.
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

from hgfast.errors import HgfastError, one_line
from hgfast.runtime import cuda_memory
from hgfast.runtime.cuda_memory import CudaDevice, CudaGraph, CudaStream, DeviceBuffer, PinnedBuffer
from hgfast.runtime.cuda_memory import GpuNotFound as GpuNotFound
from hgfast.runtime.sidecar import Sidecar

TrtLibrary = Literal["tensorrt", "tensorrt_rtx"]
LIBRARY_NAMES: dict[TrtLibrary, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
PIP_PACKAGES: dict[TrtLibrary, str] = {
    "tensorrt": "tensorrt-cu13",
    "tensorrt_rtx": "tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
}
PLAN_MAGIC: dict[bytes, TrtLibrary] = {
    b"ftrt": "tensorrt",
    b"vtrt": "tensorrt_rtx",
}  # trtexec's kPLAN_FILE_TAG, and the first bytes of a TensorRT-RTX plan
HEADER_BYTES = 64  # value of `Runtime.engine_header_size`
CAPTURE_ATTEMPTS = 2  # another thread may invalidate the first, as DALI does when it frees GPU memory
MAX_CACHED_SHAPES = 4  # input shapes whose contexts, buffers and graphs an engine keeps


class LibraryNotFound(HgfastError):
    """A library cannot be imported. reason: the message without the packages to install."""

    def __init__(self, why: str, packages: str) -> None:
        super().__init__(f"{why}: {packages}")
        self.reason = why


def import_tensorrt(name: TrtLibrary) -> Any:
    """Import TensorRT or TensorRT-RTX, from the package of that name or from its bindings package.

    Raises:
        LibraryNotFound: the package or its shared libraries are not installed; the message names the packages to install.
    """
    errors = []
    for module in (name, f"{name}_bindings"):
        try:
            return importlib.import_module(module)
        except (ImportError, OSError, AssertionError) as error:  # AssertionError: the versions of the package's parts differ
            errors.append(str(error))
    message = next((words for words in errors if not words.startswith("No module named")), errors[0])
    raise LibraryNotFound(f"{LIBRARY_NAMES[name]} cannot be imported ({one_line(message)})", f"pip install {PIP_PACKAGES[name]}")


_LOGGERS: dict[type, Any] = {}


def make_logger(trt: Any) -> Any:
    """Return the library's logger with empty `lines`, which collects pairs of severity ("error" or "warning") and message.

    There is one logger per library, because TensorRT-RTX keeps the first one for the whole process.
    """
    if trt.ILogger not in _LOGGERS:
        severities = {"WARNING": "warning", "ERROR": "error", "INTERNAL_ERROR": "error"}

        class TrtLogger(trt.ILogger):  # type: ignore[misc]  # the library has no stubs
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.lines: list[tuple[str, str]] = []

            def log(self, severity: Any, msg: str) -> None:
                if severity.name in severities:
                    self.lines.append((severities[severity.name], one_line(msg)))

        _LOGGERS[trt.ILogger] = TrtLogger()
    logger = _LOGGERS[trt.ILogger]
    logger.lines.clear()
    return logger


def collected_messages(logger: Any, severity: Literal["error", "warning"]) -> tuple[str, ...]:
    """Return the distinct messages of one severity that a logger of `make_logger` has collected."""
    return tuple(dict.fromkeys(text for line_severity, text in logger.lines if line_severity == severity))


def last_errors(logger: Any) -> str:
    """Return the last errors that a logger of `make_logger` has collected, for a message in parentheses."""
    # without a driver, the library reports follow-up errors of its own that do not name the cause
    errors = [text for text in collected_messages(logger, "error") if not text.startswith("[checkMacros.cpp")]
    return "; ".join(errors[-3:]) or "it does not say why"


def library_of_plan(plan: bytes) -> TrtLibrary | None:
    """Return the library that a plan is for, or None if it is not a plan."""
    return PLAN_MAGIC.get(plan[:4])


def plan_version(plan: bytes) -> tuple[int, int, int, int] | None:
    """Return the version of the library that built a plan, each number modulo 256, or None if it is not a plan."""
    if library_of_plan(plan) is None or len(plan) < HEADER_BYTES:
        return None
    return plan[24], plan[25], plan[26], plan[27]


def check_plan_header(plan: bytes, name: TrtLibrary, what: str) -> None:
    """Check by its header, without a GPU, that a plan is complete and for this library. what: the plan's name, for messages.

    Raises:
        HgfastError: it is not a plan, it is for another library, or it is truncated or modified.
    """
    library = library_of_plan(plan)
    if library is None or len(plan) < HEADER_BYTES:
        raise HgfastError(
            f"{what} is not a {LIBRARY_NAMES[name]} engine, judging by its first bytes: copy it again or build it again"
        )
    if library != name:
        raise HgfastError(
            f"{what} is an engine of {LIBRARY_NAMES[library]}, not of {LIBRARY_NAMES[name]}: "
            f"run it with {LIBRARY_NAMES[library]} or build it again"
        )
    if name == "tensorrt_rtx":
        size = int.from_bytes(plan[16:24], "little")
        if size != len(plan):
            raise HgfastError(f"{what} has {len(plan)} bytes where its header says {size}: copy it again or build it again")
        trt = import_tensorrt(name)
        runtime = trt.Runtime(make_logger(trt))
        diagnostics = runtime.get_engine_validity(plan[: runtime.engine_header_size])[1]
        if diagnostics & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE):
            raise HgfastError(
                f"the header of {what} is broken according to {LIBRARY_NAMES[name]}: copy it again or build it again"
            )


def check_plan_version(plan: bytes, name: TrtLibrary, built_version: str, compatible: bool, what: str) -> None:
    """Check that the installed library has the version that built a plan, or a newer one for a version-compatible plan.

    built_version: the version in the sidecar; the plan's header must agree with it. what: the plan's name, for messages.

    Raises:
        HgfastError: the library is missing, or its version does not run the plan.
    """
    installed = str(import_tensorrt(name).__version__)
    header = plan_version(plan)
    built_numbers = tuple(number % 256 for number in _parse_version(built_version))
    if header is not None and header[: len(built_numbers)] != built_numbers[:4]:
        header_version = ".".join(map(str, header))
        raise HgfastError(
            f"{what} was built by {LIBRARY_NAMES[name]} {header_version} according to its header, but its sidecar says "
            f"{built_version}: build it again"
        )
    if installed == built_version or (compatible and _parse_version(installed) >= _parse_version(built_version)):
        return
    required = f"{built_version} or newer" if compatible else built_version
    raise HgfastError(
        f"{what} was built by {LIBRARY_NAMES[name]} {built_version}, but {installed} is installed here, which does not run it: "
        f"build it again here, or install {LIBRARY_NAMES[name]} {required}"
    )


@dataclass
class _ShapeContext:
    """Execution context for one input shape, with host and device buffers by tensor name and a CUDA graph.

    Each shape has its own context, because a graph is valid only while the context that it was captured from does not change.
    """

    context: Any
    host_buffers: dict[str, PinnedBuffer] = field(default_factory=dict)
    device_buffers: dict[str, DeviceBuffer] = field(default_factory=dict)
    graph: CudaGraph | None = None
    warmed_up: bool = False

    def close(self) -> None:
        for resource in (self.graph, *self.host_buffers.values(), *self.device_buffers.values()):
            if resource is not None:
                resource.close()
        self.context = self.graph = None


class Engine:
    """A TensorRT engine on a GPU: `engine(images)` returns the outputs of `sidecar.outputs` as arrays.

    Threads may share an engine: a lock serializes calls. A process may have several. Contexts, buffers and CUDA graphs are cached
    for `MAX_CACHED_SHAPES` input shapes; the least recently used is evicted. They are freed by `close`, at the end of a `with`,
    or with the engine. `warnings` lists the shapes that run without a CUDA graph and why.

    Args:
        path: the plan.
        sidecar: from `hgfast.runtime.sidecar.read_sidecar`.
        stream: handle of a CUDA stream of the GPU, which must outlive the engine; None creates one.
        use_cuda_graphs: launch the network as one CUDA graph from the second call with a shape on.
        device: index of the GPU.

    Raises:
        HgfastError: the plan is broken or does not match the library's version, the library or cuda-bindings is missing, or the
            library refuses the plan.
        GpuNotFound: there is no usable GPU.
    """

    def __init__(
        self, path: Path, sidecar: Sidecar, *, stream: int | None = None, use_cuda_graphs: bool = True, device: int = 0
    ) -> None:
        if sidecar.export_format not in LIBRARY_NAMES or sidecar.builder is None:
            raise HgfastError(f"{path} is not a TensorRT engine according to its sidecar: run it in another runtime")
        self.path, self.sidecar = path, sidecar
        self.name: TrtLibrary = "tensorrt_rtx" if sidecar.export_format == "tensorrt_rtx" else "tensorrt"
        name, compatible = self.name, bool(sidecar.builder.get("version_compatible"))
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise HgfastError(f"{path} cannot be read ({error.strerror}): check the path") from error
        trt = import_tensorrt(name)
        check_plan_header(plan, name, str(path))
        check_plan_version(plan, name, str(sidecar.builder["version"]), compatible, str(path))
        self.gpu = CudaDevice(device, str(path))
        self.trt, self.logger = trt, make_logger(trt)
        self.warnings: list[str] = []
        self._lock = threading.Lock()
        self._shape_contexts: OrderedDict[tuple[int, ...], _ShapeContext] = OrderedDict()
        self._workspace: DeviceBuffer | None = None
        self._use_graphs, self._native_graphs = use_cuda_graphs, False
        self.runtime: Any = None
        self.engine: Any = None
        self.runtime_config: Any = None
        self.runtime_cache: Any = None
        with self.gpu.activate():
            self.stream = CudaStream(self.gpu, stream)
            # a graph captured in the caller's stream could contain the caller's work
            self._capture_stream = self.stream if stream is None else CudaStream(self.gpu)
            try:
                self._deserialize(plan, compatible)
            except BaseException:
                self.close()
                raise

    def __call__(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run images (N, ...) as in `sidecar.input` and return an array (N, ...) for each of `sidecar.outputs`, by name.

        Raises:
            HgfastError: the engine does not accept the shape or type, fails, or is closed.
        """
        with self._lock:
            if self.engine is None:
                raise HgfastError(f"{self.path} is closed: create a new Engine")
            expected = self._types[self.input]
            if images.dtype != expected:
                raise HgfastError(f"{self.path} takes {expected}, not {images.dtype}: convert the images")
            with self.gpu.activate():
                shape_context = self._context_for(images.shape)
                try:
                    return self._run(shape_context, images)
                except BaseException:
                    self._release_shape(images.shape)
                    raise

    def close(self) -> None:
        """Free all GPU resources. Repeated calls have no effect."""
        with self._lock, self.gpu.activate(must=False):
            for shape in list(self._shape_contexts):
                self._release_shape(shape)
            # before the memory that they use
            self.runtime_config = self.runtime_cache = self.engine = self.runtime = None
            for resource in (self._workspace, self._capture_stream, self.stream):
                if resource is not None:
                    resource.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deserialize(self, plan: bytes, compatible: bool) -> None:
        """Load the plan and allocate the workspace that all contexts share."""
        trt, name = self.trt, LIBRARY_NAMES[self.name]
        runtime = trt.Runtime(self.logger)
        if compatible:
            runtime.engine_host_code_allowed = True  # such a plan contains the runtime of the version that built it
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reason, advice = self._load_failure(runtime, plan), "build it on this machine"
            if "UNSUPPORTED_CC" in reason:
                hardware = (self.sidecar.builder or {}).get("hardware")
                advice = f"it was built for {hardware}, so build it for this GPU with --compute-capabilities, or with TensorRT"
            raise HgfastError(f"{name} cannot load {self.path} ({reason}): {advice}")
        self.runtime, self.engine = runtime, engine
        self.input, self.outputs = self._match_io_tensors()
        self._types = {tensor_name: self._numpy_dtype(tensor_name) for tensor_name in (self.input, *self.outputs.values())}
        if self.name == "tensorrt_rtx":
            settings = engine.create_runtime_config()
            settings.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            self.runtime_cache = kernels = settings.create_runtime_cache()
            settings.set_runtime_cache(kernels)  # compiles a kernel once instead of once per context
            if self._use_graphs and hasattr(settings, "cuda_graph_strategy"):
                # TensorRT-RTX knows when its kernels for a shape are ready for capture
                settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
                self._native_graphs = settings.cuda_graph_strategy == trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self.runtime_config = settings
        self._workspace = DeviceBuffer(self.gpu, engine.device_memory_size_v2)

    def _context_for(self, shape: tuple[int, ...]) -> _ShapeContext:
        """Context for this input shape, created on first use; evicts the least recently used."""
        if shape in self._shape_contexts:
            self._shape_contexts.move_to_end(shape)
            return self._shape_contexts[shape]
        trt, engine, scratch = self.trt, self.engine, self._workspace
        assert scratch is not None
        self.logger.lines.clear()
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(strategy if self.runtime_config is None else self.runtime_config)
        if context is None:
            raise HgfastError(
                f"{self.path} cannot start ({last_errors(self.logger)}): free memory on the GPU, or build a smaller batch"
            )
        context.set_device_memory(scratch.address, scratch.nbytes)
        if not context.set_input_shape(self.input, shape):
            raise HgfastError(f"{self.path} does not accept input shape {shape} ({last_errors(self.logger)}); see its sidecar")
        while len(self._shape_contexts) >= MAX_CACHED_SHAPES:
            self._release_shape(next(iter(self._shape_contexts)))
        self._shape_contexts[shape] = shape_context = _ShapeContext(context)
        try:
            self._allocate_buffers(shape_context, shape)
        except BaseException:
            self._release_shape(shape)
            raise
        return shape_context

    def _allocate_buffers(self, shape_context: _ShapeContext, shape: tuple[int, ...]) -> None:
        """Allocate the host and device buffers for an input shape."""
        context = shape_context.context
        shapes = {self.input: shape}
        shapes |= {tensor_name: tuple(context.get_tensor_shape(tensor_name)) for tensor_name in self.outputs.values()}
        for tensor_name, size in shapes.items():
            if min(size, default=0) < 0:
                raise HgfastError(f"{self.path} does not give the size of {tensor_name} for input shape {shape}: export it again")
            dtype = self._types[tensor_name]
            shape_context.host_buffers[tensor_name] = PinnedBuffer(self.gpu, size, dtype)
            shape_context.device_buffers[tensor_name] = buffer = DeviceBuffer(self.gpu, prod(size) * dtype.itemsize)
            if not context.set_tensor_address(tensor_name, buffer.address):
                raise HgfastError(f"{self.path} takes no buffer for {tensor_name} ({last_errors(self.logger)}): build it again")

    def _run(self, shape_context: _ShapeContext, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run one batch. The first run of a shape is the warm-up that capturing requires."""
        np.copyto(shape_context.host_buffers[self.input].array, images)
        if shape_context.graph is None:
            self._enqueue(shape_context, self.stream)
        else:
            shape_context.graph.launch(self.stream)
        self.stream.synchronize()
        outputs = {name: shape_context.host_buffers[tensor_name].array.copy() for name, tensor_name in self.outputs.items()}
        if not shape_context.warmed_up:
            shape_context.warmed_up = True
            self._capture(shape_context)
        return outputs

    def _enqueue(self, shape_context: _ShapeContext, stream: CudaStream) -> None:
        """Enqueue the copy to the GPU, the network, and the copies from the GPU."""
        context, host, device = shape_context.context, shape_context.host_buffers, shape_context.device_buffers
        cuda_memory.copy_to_device(device[self.input], host[self.input], stream)
        self.logger.lines.clear()
        if not context.execute_async_v3(stream.handle):
            raise HgfastError(f"{self.path} failed ({last_errors(self.logger)}): build it again on this machine")
        for tensor_name in self.outputs.values():
            cuda_memory.copy_to_host(host[tensor_name], device[tensor_name], stream)

    def _capture(self, shape_context: _ShapeContext) -> None:
        """Capture the graph of a shape, or add a warning if `CAPTURE_ATTEMPTS` fail."""
        context, stream, reason = shape_context.context, self._capture_stream, ""
        if self.name == "tensorrt_rtx" and self._native_graphs:
            if not context.is_stream_capturable(self.stream.handle):
                reason = f"{self.path} cannot be captured in this stream according to TensorRT-RTX"
        elif self._use_graphs:
            for _ in range(CAPTURE_ATTEMPTS):
                try:
                    shape_context.graph = cuda_memory.capture_graph(stream, lambda: self._enqueue(shape_context, stream))
                except HgfastError as error:
                    reason = str(error).rpartition("): ")[0] + ")"  # without the advice for a failed call
                else:
                    reason = ""
                    break
        shape = shape_context.host_buffers[self.input].array.shape
        warning = f"images of shape {shape} run without a CUDA graph: {reason}"
        if reason and warning not in self.warnings:
            self.warnings.append(warning)

    def _release_shape(self, shape: tuple[int, ...]) -> None:
        """Free the context of a shape after its pending GPU work."""
        self.stream.synchronize(must=False)
        self._shape_contexts.pop(shape).close()

    def _match_io_tensors(self) -> tuple[str, dict[str, str]]:
        """Return the engine's name of the input, and its names of the sidecar's outputs.

        Torch-TensorRT names outputs output0, output1 and so on, in order.
        """
        trt, engine = self.trt, self.engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        output_names = [name for name in names if name not in inputs]
        expected = [output.name for output in self.sidecar.outputs]
        numbered = [f"output{index}" for index in range(len(expected))]
        if len(inputs) == 1 and set(output_names) == set(expected):
            return inputs[0], {name: name for name in expected}
        if len(inputs) == 1 and set(output_names) == set(numbered):
            return inputs[0], dict(zip(expected, numbered))
        raise HgfastError(
            f"{self.path} takes {', '.join(inputs)} and gives {', '.join(output_names)}, but its sidecar has "
            f"{self.sidecar.input.name} and {', '.join(expected)}: export again"
        )

    def _numpy_dtype(self, tensor_name: str) -> np.dtype[Any]:
        """Return the numpy type of an input or output of the engine."""
        trt, engine = self.trt, self.engine
        try:
            return np.dtype(trt.nptype(engine.get_tensor_dtype(tensor_name)))
        except TypeError as error:
            raise HgfastError(f"the type of {tensor_name} in {self.path} does not exist in numpy: export it again") from error

    def _load_failure(self, runtime: Any, plan: bytes) -> str:
        """Return why a plan was refused, as far as known."""
        message = last_errors(self.logger)
        if self.name == "tensorrt_rtx":  # TensorRT has no such query
            trt = self.trt
            diagnostics = runtime.get_engine_validity(plan[: runtime.engine_header_size])[1]
            members = trt.EngineInvalidityDiagnostics.__members__
            message = "; ".join([*(key for key, bit in members.items() if int(diagnostics) & int(bit)), message])
        return message


def _parse_version(version: str) -> tuple[int, ...]:
    """Return the numbers of a version up to the first part that is not a number."""
    parts: list[int] = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)
