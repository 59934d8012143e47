"""Build a TensorRT engine from an ONNX file with TensorRT 10 or 11 or TensorRT-RTX, and choose the library.

The network is strongly typed: it has the precision of the ONNX file, which no flag changes.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write, prepare_file
from hgfast.runtime.sidecar import BatchRange
from hgfast.runtime.tensorrt_engine import (
    LIBRARY_NAMES,
    LibraryNotFound,
    TrtLibrary,
    check_plan_header,
    collected_messages,
    import_tensorrt,
    last_errors,
    library_of_plan,
    make_logger,
    one_line,
)

BUILDERS = ("auto", "tensorrt", "tensorrt_rtx", "torch_tensorrt")
TORCH_TENSORRT_PACKAGES = "a torch built for CUDA (https://pytorch.org/get-started) and pip install torch-tensorrt"
RTX_HARDWARE = "compute capability 8.0, 8.6, 8.9, 12.0 and later"  # the default of TensorRT-RTX


class BuilderNotFound(HgfastError):
    """No installed library builds engines. Other formats can still be exported."""


@dataclass(frozen=True)
class TrtBackend:
    """The library that builds. version: of TensorRT, which the engine requires to run. reason: a sentence on why it was chosen.

    has_gpu: whether torch finds a usable GPU.
    """

    name: Literal["tensorrt", "tensorrt_rtx", "torch_tensorrt"]
    version: str
    module: Any
    reason: str
    has_gpu: bool


@dataclass(frozen=True)
class BuildOptions:
    """Options of the build.

    timing_cache: file of kernel timings, which makes the next build faster (TensorRT, Torch-TensorRT).
    hardware_compatible: for all GPUs from Ampere on. version_compatible: also for later versions of TensorRT (TensorRT).
    workspace_gb: maximum workspace of a layer in gigabytes. optimization_level: 0 (fast build) to 5 (fast engine).
    compute_capabilities: the GPUs to build for, such as SM86 (TensorRT-RTX).
    """

    timing_cache: Path | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    workspace_gb: float | None = None
    optimization_level: int | None = None
    compute_capabilities: tuple[str, ...] = ()

    def check(self, backend: str) -> None:
        """Raise `HgfastError` for a value out of range or an option that the backend does not support."""
        if self.workspace_gb is not None and self.workspace_gb <= 0:
            raise HgfastError(f"the workspace is {self.workspace_gb} GB, must be above 0; omit it for no limit")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise HgfastError(f"the optimization level is {self.optimization_level}, must be 0 to 5")
        if backend == "tensorrt_rtx" and self.version_compatible:
            raise HgfastError("TensorRT-RTX cannot build version-compatible engines: leave it out, or build with tensorrt")
        if backend == "torch_tensorrt" and self.version_compatible:  # it excludes the runtime that such an engine should contain
            raise HgfastError("version-compatible engines of Torch-TensorRT do not run on their own: build with tensorrt")
        if backend == "tensorrt_rtx" and self.timing_cache is not None:
            raise HgfastError("TensorRT-RTX has no timing cache: leave it out")
        if backend != "tensorrt_rtx" and self.compute_capabilities:
            raise HgfastError(
                f"{backend} builds for the GPU of the machine, not for {', '.join(self.compute_capabilities)}: "
                "request a hardware-compatible engine, or build with tensorrt_rtx"
            )

    @property
    def to_dict(self) -> dict[str, Any]:
        """The options to record in the sidecar."""
        return {
            "hardware_compatible": self.hardware_compatible,
            "version_compatible": self.version_compatible,
            "workspace_gb": self.workspace_gb,
            "optimization_level": self.optimization_level,
        }


@dataclass(frozen=True)
class BuiltEngine:
    """An engine. plan: content of the file. parse_s, build_s: durations in seconds. warnings: messages of the library.

    builder_info: plain values for the sidecar's `builder`. layer_info: JSON of the engine's inspector; None without a GPU.
    """

    plan: bytes
    parse_s: float
    build_s: float
    warnings: tuple[str, ...]
    builder_info: dict[str, Any] = field(default_factory=dict)
    layer_info: str | None = None

    @property
    def library(self) -> TrtLibrary:
        """The library that runs it, which is the sidecar's `export_format`."""
        library = library_of_plan(self.plan)
        if library is None:
            raise HgfastError(
                "the built plan is not a TensorRT engine, judging by its first bytes: see the warnings of the build"
            )
        return library


def has_usable_gpu() -> bool:
    """Whether torch finds a usable GPU."""
    import torch

    return torch.cuda.is_available()


def import_torch_tensorrt() -> Any:
    """Import torch_tensorrt. Raises `LibraryNotFound` with the packages to install."""
    captured_output = io.StringIO()
    try:
        with contextlib.redirect_stdout(captured_output):  # it prints its errors, too
            return importlib.import_module("torch_tensorrt")
    except Exception as error:  # without a CUDA torch or TensorRT's libraries it raises Exception
        raise LibraryNotFound(
            f"Torch-TensorRT cannot be imported ({one_line(str(error))})", f"install {TORCH_TENSORRT_PACKAGES}"
        ) from error


def find_backend(wanted: str, gpu: bool | None = None) -> TrtBackend:
    """Return the library to build with. gpu: whether there is a GPU; None: detect it.

    With a GPU, auto takes the first of TensorRT, Torch-TensorRT and TensorRT-RTX that is installed, otherwise TensorRT-RTX.

    Raises:
        BuilderNotFound: auto, and no library can be imported.
        HgfastError: the name is unknown, or the requested library cannot be imported or needs a GPU to build.
    """
    if wanted not in BUILDERS:
        raise HgfastError(f"there is no backend {wanted!r}: choose from {', '.join(BUILDERS)}")
    gpu = has_usable_gpu() if gpu is None else gpu
    if wanted != "auto":
        backend = _backend(wanted, "as requested", gpu)
        if not gpu and wanted != "tensorrt_rtx":
            raise HgfastError(
                f"{wanted} needs an NVIDIA GPU to build engines, and torch finds none that it can use: "
                "build on a machine with one, or with tensorrt_rtx, which needs none"
            )
        return backend
    rejected = [] if gpu else ["TensorRT and Torch-TensorRT need a GPU to build, and torch finds none that it can use"]
    for name in ("tensorrt", "torch_tensorrt", "tensorrt_rtx") if gpu else ("tensorrt_rtx",):
        try:
            return _backend(name, "; ".join([_BACKEND_REASONS[name], *rejected]), gpu)
        except LibraryNotFound as error:
            rejected.append(error.reason)
    raise BuilderNotFound(
        f"nothing here builds TensorRT engines ({'; '.join(rejected)}): pip install tensorrt-rtx-cu13-libs "
        "tensorrt-rtx-cu13-bindings, which needs no GPU to build, or, on a machine with a GPU, pip install tensorrt-cu13"
    )


_BACKEND_REASONS = {
    "tensorrt": "builds for this machine's GPU",
    "torch_tensorrt": "builds for this machine's GPU from torch",
    "tensorrt_rtx": "builds engines that fit several kinds of GPU",
}


def _backend(name: str, why: str, gpu: bool) -> TrtBackend:
    if name == "torch_tensorrt":
        module = import_torch_tensorrt()
        version = str(importlib.import_module("tensorrt").__version__)
        return TrtBackend("torch_tensorrt", version, module, f"torch_tensorrt {module.__version__}: {why}", gpu)
    library: TrtLibrary = "tensorrt_rtx" if name == "tensorrt_rtx" else "tensorrt"
    module = import_tensorrt(library)
    return TrtBackend(library, str(module.__version__), module, f"{library} {module.__version__}: {why}", gpu)


def build(onnx: Path, batch: BatchRange, backend: TrtBackend, options: BuildOptions) -> BuiltEngine:
    """Build an engine of an ONNX file, optimized for `batch`. This takes seconds with TensorRT-RTX and minutes with TensorRT.

    Raises:
        HgfastError: the file is not ONNX, has unsupported operations, does not match `batch`, or the build fails.
    """
    if backend.name == "torch_tensorrt":
        raise ValueError("torch_tensorrt builds from a module, in export/exporter/torch_trt.py")
    options.check(backend.name)
    check_batch_range(batch)
    if options.timing_cache is not None:
        prepare_file(options.timing_cache, "--timing-cache")
    trt = backend.module
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # the bindings raise it if there is no builder
        raise HgfastError(
            f"{LIBRARY_NAMES[backend.name]} {backend.version} does not start ({last_errors(logger)}): update the NVIDIA driver"
        ) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    start_time = time.perf_counter()
    _parse_onnx(trt, network, logger, onnx)
    parse_s = time.perf_counter() - start_time
    config = builder.create_builder_config()
    _configure(trt, config, backend, options)
    warnings = [] if options.timing_cache is None else _load_timing_cache(config, options.timing_cache, logger)
    _set_profile(builder, config, network, batch, onnx, logger)
    start_time = time.perf_counter()
    serialized = builder.build_serialized_network(network, config)
    build_s = time.perf_counter() - start_time
    if serialized is None:
        raise HgfastError(
            f"{LIBRARY_NAMES[backend.name]} cannot build {onnx} ({last_errors(logger)}): {_advice(last_errors(logger))}"
        )
    plan = bytes(serialized)
    if options.timing_cache is not None:
        warnings += _save_timing_cache(config, options.timing_cache)
    warnings += [*collected_messages(logger, "warning"), *collected_messages(logger, "error")]
    check_plan(plan, backend)
    layers = None
    if backend.has_gpu:
        layers = engine_layer_info(plan, backend)
        warnings += [] if layers else [f"the engine cannot be inspected here ({last_errors(logger)})"]
    about = {
        "backend": backend.name,
        "version": backend.version,
        **options.to_dict,
        "hardware": _supported_gpus(backend, options),
    }
    return BuiltEngine(plan, parse_s, build_s, tuple(dict.fromkeys(warnings)), about, layers)


def check_batch_range(batch: BatchRange) -> None:
    """Raise `HgfastError` unless 1 <= min <= opt <= max."""
    if not 1 <= batch.min <= batch.opt <= batch.max:
        raise HgfastError(f"the batch {batch.min}:{batch.opt}:{batch.max} is not ascending from at least 1: give min:opt:max")


def check_plan(plan: bytes, backend: TrtBackend) -> None:
    """Check by its header, without a GPU, that a plan is complete. Raises `HgfastError` otherwise."""
    library: TrtLibrary = "tensorrt_rtx" if backend.name == "tensorrt_rtx" else "tensorrt"
    check_plan_header(plan, library_of_plan(plan) or library if backend.name == "torch_tensorrt" else library, "the engine")


def engine_layer_info(plan: bytes, backend: TrtBackend) -> str | None:
    """Return the inspector's JSON of an engine's layers, or None if it cannot be loaded. Needs a GPU."""
    library: TrtLibrary = library_of_plan(plan) or "tensorrt"
    trt = import_tensorrt(library) if backend.name == "torch_tensorrt" else backend.module
    runtime = trt.Runtime(make_logger(trt))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _parse_onnx(trt: Any, network: Any, logger: Any, onnx: Path) -> None:
    """Parse the file into the network."""
    try:
        data = onnx.read_bytes()
    except OSError as error:
        raise HgfastError(f"{onnx} cannot be read ({error.strerror}): export it with hgfast export onnx") from error
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(data, str(onnx)):
        errors = []
        for index in range(parser.num_errors):
            fault = parser.get_error(index)
            where = f" at node {fault.node_name()} ({fault.node_operator()})" if fault.node_operator() else ""
            errors.append(f"{fault.code().name}{where}: {one_line(fault.desc())}")
        raise HgfastError(f"{onnx} cannot be read as a network ({'; '.join(errors) or last_errors(logger)}): export it again")
    if not network.num_inputs or not network.num_outputs:  # the parser accepts an empty file
        raise HgfastError(f"{onnx} has no network with an input and an output: export it again")


def _configure(trt: Any, config: Any, backend: TrtBackend, options: BuildOptions) -> None:
    """Apply the options to the builder configuration."""
    if backend.has_gpu:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # without it the inspector has only layer names
    if options.workspace_gb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gb * (1 << 30)))
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    config.clear_flag(trt.BuilderFlag.TF32)  # TF32 has only ten bits of mantissa
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible and backend.name != "tensorrt_rtx":  # TensorRT-RTX engines always are
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.compute_capabilities:
        supported = {name: capability for name, capability in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
        for name in options.compute_capabilities:
            if name not in supported:
                raise HgfastError(
                    f"{LIBRARY_NAMES['tensorrt_rtx']} cannot build for {name!r}: choose from {', '.join(supported)}"
                )
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, name in enumerate(options.compute_capabilities):
            config.set_compute_capability(supported[name], index)


def _load_timing_cache(config: Any, path: Path, logger: Any) -> list[str]:
    """Load the timing cache from a file, or an empty one if there is none. Returns warnings."""
    try:
        cached = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise HgfastError(f"the timing cache {path} cannot be read ({error.strerror}): choose another") from error
    cache = config.create_timing_cache(cached)
    if cache is not None and config.set_timing_cache(cache, False):
        return []
    cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise HgfastError(f"no timing cache can be created ({last_errors(logger)}): leave {path} out")
    return [f"the timing cache {path} is of another GPU or TensorRT: it is not used and will be replaced"]


def _save_timing_cache(config: Any, path: Path) -> list[str]:
    """Write the timing cache. A failure is a warning, so that a build of minutes is not lost."""
    cache = config.get_timing_cache()
    if cache is None:
        return [f"the builder returned no timing cache for {path}"]
    try:
        with atomic_write(path) as temp_path:
            temp_path.write_bytes(bytes(cache.serialize()))
    except OSError as error:
        return [f"the timing cache {path} cannot be written ({error.strerror})"]
    return []


def _set_profile(builder: Any, config: Any, network: Any, batch: BatchRange, onnx: Path, logger: Any) -> None:
    """Set the optimization profile if the batch size of the file is free."""
    profile = builder.create_optimization_profile()
    dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if any(side < 0 for side in shape[1:]):
            raise HgfastError(
                f"the input {tensor.name} {shape} of {onnx} has more free dimensions than the batch size: export it again"
            )
        if shape[0] >= 0:
            if {batch.min, batch.max} != {shape[0]}:
                raise HgfastError(
                    f"{onnx} takes {shape[0]} images at once, not {batch.as_flag}: export it with a free batch size"
                )
            continue
        dynamic = True
        profile.set_shape(tensor.name, *((size, *shape[1:]) for size in (batch.min, batch.opt, batch.max)))
    if dynamic and config.add_optimization_profile(profile) < 0:
        raise HgfastError(f"{onnx} cannot be built for a batch of {batch.as_flag} ({last_errors(logger)}): choose another")


def _advice(reason: str) -> str:
    if "memory" in reason.lower():
        return "build for a smaller batch"
    return "try a newer TensorRT"


def _supported_gpus(backend: TrtBackend, options: BuildOptions) -> str:
    """Describe the GPUs that an engine runs on."""
    if backend.name == "tensorrt_rtx":
        capabilities = [f"{int(name[2:]) // 10}.{int(name[2:]) % 10}" for name in options.compute_capabilities]
        return f"compute capability {', '.join(capabilities)}" if capabilities else RTX_HARDWARE
    return supported_gpus(options)


def supported_gpus(options: BuildOptions) -> str:
    """Describe the GPUs that an engine runs on if it is built for this machine's."""
    import torch

    if options.hardware_compatible:
        return "compute capability 8.0 and later"
    if not torch.cuda.is_available():
        return "the kind of GPU that it was built on"
    major, minor = torch.cuda.get_device_capability()
    return f"compute capability {major}.{minor}"
