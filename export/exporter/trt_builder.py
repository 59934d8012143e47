"""Build a TensorRT engine from an ONNX file with TensorRT 10 or 11 or TensorRT-RTX, and choose the library.

The network is strongly typed: it has the precision of the ONNX file, which no flag changes.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hgfast.errors import HgfastError, one_line
from hgfast.export.exporter.options import BuildOptions
from hgfast.fileio.files import atomic_write
from hgfast.fileio.onnx_file import check_onnx
from hgfast.runtime.sidecar import BatchRange
from hgfast.runtime.tensorrt_engine import (
    LIBRARY_NAMES,
    PIP_PACKAGES,
    LibraryNotFound,
    TrtLibrary,
    check_plan_header,
    collected_messages,
    import_tensorrt,
    last_errors,
    library_of_plan,
    make_logger,
)

BackendName = Literal["tensorrt", "tensorrt_rtx", "torch_tensorrt"]
BACKEND_REASONS: dict[BackendName, str] = {
    "tensorrt": "builds for this machine's GPU",
    "torch_tensorrt": "builds for this machine's GPU from torch",
    "tensorrt_rtx": "builds engines that fit several kinds of GPU",
}
"""Backends in the order in which auto tries them, and why to take them."""
TORCH_TENSORRT_PACKAGES = "a torch built for CUDA (https://pytorch.org/get-started) and pip install torch-tensorrt"
RTX_HARDWARE = "compute capability 8.0, 8.6, 8.9, 12.0 and later"  # the default of TensorRT-RTX
RTX_CAPABILITIES, RTX_MIN_CAPABILITY = ((8, 0), (8, 6), (8, 9)), (12, 0)
CURRENT = "CURRENT"  # in --compute-capabilities: the GPU of the machine, documented or not


class BuilderNotFound(HgfastError):
    """No installed library builds engines. Other formats can still be exported."""


class UnsupportedGpu(BuilderNotFound):
    """TensorRT-RTX does not support the GPU of the machine. reason: the message without the advice."""

    def __init__(self, capability: tuple[int, int], why: str, advice: str) -> None:
        self.reason = f"TensorRT-RTX does not support this GPU (compute capability {'{}.{}'.format(*capability)}){why}"
        super().__init__(f"{self.reason}: {advice}")


@dataclass(frozen=True)
class TrtBackend:
    """The library that builds. version: of TensorRT, which the engine requires to run. reason: a sentence on why it was chosen.

    has_gpu: whether torch finds a GPU that the engine is built for. undocumented_gpu: its compute capability if the library's
    documentation does not name it.
    """

    name: BackendName
    version: str
    module: Any
    reason: str
    has_gpu: bool
    undocumented_gpu: tuple[int, int] | None = None


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


def import_torch_tensorrt() -> Any:
    """Import torch_tensorrt. Raises `LibraryNotFound` with the packages to install."""
    captured_output = io.StringIO()
    try:
        with contextlib.redirect_stdout(captured_output):  # it prints its errors, too
            return importlib.import_module("torch_tensorrt")
    except Exception as error:  # without a CUDA torch or TensorRT's libraries it raises Exception
        raise LibraryNotFound(
            f"Torch-TensorRT cannot be imported ({one_line(error)})", f"install {TORCH_TENSORRT_PACKAGES}"
        ) from error


def gpu_capability() -> tuple[int, int] | None:
    """Return the compute capability of torch's current GPU, or None if it finds none that it can use."""
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def find_backend(
    wanted: BackendName | Literal["auto"], gpu: bool | None = None, compute_capabilities: Sequence[str] = ()
) -> TrtBackend:
    """Return the library to build with. gpu: whether there is a GPU; None: detect it.

    With a GPU, auto takes the first of TensorRT, Torch-TensorRT and TensorRT-RTX that is installed and supports it, otherwise
    TensorRT-RTX. compute_capabilities: those requested of TensorRT-RTX.

    Raises:
        BuilderNotFound: auto, and no library can be imported that supports the GPU.
        UnsupportedGpu: TensorRT-RTX, and it does not support the GPU.
        HgfastError: the requested library cannot be imported or needs a GPU to build.
    """
    if gpu is None:
        gpu = gpu_capability() is not None
    if wanted != "auto":
        backend = _backend(wanted, "as requested", gpu, compute_capabilities)
        if not gpu and wanted != "tensorrt_rtx":
            raise HgfastError(
                f"{wanted} needs an NVIDIA GPU to build engines, and torch finds none that it can use: "
                "build on a machine with one, or with tensorrt_rtx, which needs none"
            )
        return backend
    rejected = [] if gpu else ["TensorRT and Torch-TensorRT need a GPU to build, and torch finds none that it can use"]
    for name, reason in BACKEND_REASONS.items():
        try:
            if gpu or name == "tensorrt_rtx":
                return _backend(name, "; ".join([reason, *rejected]), gpu, compute_capabilities)
        except (LibraryNotFound, UnsupportedGpu) as error:
            rejected.append(error.reason)
    raise BuilderNotFound(
        f"nothing here builds TensorRT engines ({'; '.join(rejected)}): pip install {PIP_PACKAGES['tensorrt_rtx']}, which needs "
        f"no GPU to build, or, on a machine with a GPU, pip install {PIP_PACKAGES['tensorrt']}"
    )


def _backend(name: BackendName, reason: str, gpu: bool, compute_capabilities: Sequence[str]) -> TrtBackend:
    if name == "torch_tensorrt":
        module = import_torch_tensorrt()
        version = str(importlib.import_module("tensorrt").__version__)
    else:
        module = import_tensorrt(name)
        version = str(module.__version__)
    backend = TrtBackend(name, version, module, f"{name} {module.__version__}: {reason}", gpu)
    capability = gpu_capability() if gpu and name == "tensorrt_rtx" else None
    return backend if capability is None else _with_rtx_gpu(backend, capability, compute_capabilities)


def _with_rtx_gpu(backend: TrtBackend, capability: tuple[int, int], requested: Sequence[str]) -> TrtBackend:
    """Return TensorRT-RTX for a machine with a GPU. Raises `UnsupportedGpu` if nothing is requested and it is not a default."""
    if not requested and capability not in RTX_CAPABILITIES and capability < RTX_MIN_CAPABILITY:
        advice = "build with tensorrt, or choose --compute-capabilities: those of other GPUs, or [CURRENT] to try this one"
        raise UnsupportedGpu(capability, f" by default, only {RTX_HARDWARE}", advice)
    name = "SM{}{}".format(*capability)
    is_target = not requested or name in requested or CURRENT in requested
    is_documented = name in backend.module.ComputeCapability.__members__ or capability >= RTX_MIN_CAPABILITY
    return replace(backend, has_gpu=is_target, undocumented_gpu=capability if is_target and not is_documented else None)


@contextlib.contextmanager
def explain_undocumented_gpu(backend: TrtBackend) -> Iterator[None]:
    """Turn an error of building or running an engine into `UnsupportedGpu` on a GPU that the library's documentation omits."""
    try:
        yield
    except HgfastError as error:
        if backend.undocumented_gpu is None:
            raise
        raise UnsupportedGpu(backend.undocumented_gpu, f", and the attempt failed ({error})", "build with tensorrt") from error


def build(onnx: Path, batch: BatchRange, backend: TrtBackend, options: BuildOptions) -> BuiltEngine:
    """Build an engine of an ONNX file, optimized for `batch`. This takes seconds with TensorRT-RTX and minutes with TensorRT.

    Raises:
        HgfastError: the file is not ONNX, has unsupported operations, does not match `batch`, or the build fails.
    """
    if backend.name == "torch_tensorrt":
        raise ValueError("torch_tensorrt builds from a module, in export/exporter/torch_trt.py")
    options.check(backend.name)
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
            f"{LIBRARY_NAMES[backend.name]} cannot build {onnx} ({last_errors(logger)}): "
            + ("build for a smaller batch" if "memory" in last_errors(logger).lower() else "try a newer TensorRT")
        )
    plan = bytes(serialized)
    if options.timing_cache is not None:
        warnings += _save_timing_cache(config, options.timing_cache)
    warnings += [*collected_messages(logger, "warning"), *collected_messages(logger, "error")]
    check_plan(plan, backend)
    layers = None
    if backend.has_gpu:
        layers = engine_layer_info(plan, backend, options.version_compatible)
        warnings += [] if layers else [f"the engine cannot be inspected here ({last_errors(logger)})"]
    builder_info = describe_build(backend, options)
    return BuiltEngine(plan, parse_s, build_s, tuple(dict.fromkeys(warnings)), builder_info, layers)


def check_plan(plan: bytes, backend: TrtBackend) -> None:
    """Check by its header, without a GPU, that a plan is complete. Raises `HgfastError` otherwise."""
    library = library_of_plan(plan) or "tensorrt" if backend.name == "torch_tensorrt" else backend.name
    check_plan_header(plan, library, "the engine")


def engine_layer_info(plan: bytes, backend: TrtBackend, version_compatible: bool = False) -> str | None:
    """Return the inspector's JSON of an engine's layers, or None if it cannot be loaded. Needs a GPU.

    version_compatible: the plan contains the lean runtime of the version that built it, which is host code.
    """
    library: TrtLibrary = library_of_plan(plan) or "tensorrt"
    trt = import_tensorrt(library) if backend.name == "torch_tensorrt" else backend.module
    runtime = trt.Runtime(make_logger(trt))
    if version_compatible:
        runtime.engine_host_code_allowed = True  # TensorRT refuses such a plan otherwise
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
    try:
        check_onnx(data)
    except ValueError as error:
        raise HgfastError(f"{onnx} cannot be read as a network ({error}): export it again") from error
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
        supported = {name: capability for name, capability in trt.ComputeCapability.__members__.items() if name != "NONE"}
        for name in options.compute_capabilities:
            if name not in supported:
                raise HgfastError(
                    f"{LIBRARY_NAMES['tensorrt_rtx']} cannot build for {name!r}: choose from {', '.join(supported)}"
                )
        if CURRENT in options.compute_capabilities and (len(options.compute_capabilities) > 1 or not backend.has_gpu):
            raise HgfastError(
                f"{CURRENT} in --compute-capabilities is the GPU of this machine: give it alone, on a machine with a GPU"
            )
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, name in enumerate(options.compute_capabilities):
            if not config.set_compute_capability(supported[name], index):
                raise HgfastError(f"{LIBRARY_NAMES['tensorrt_rtx']} does not accept {name}: leave it out")


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


def describe_build(backend: TrtBackend, options: BuildOptions) -> dict[str, Any]:
    """Return the library, the options and the GPUs that an engine runs on, for the sidecar's `builder`."""
    current = gpu_capability()
    if backend.name == "tensorrt_rtx":
        names = ["SM{}{}".format(*current) if name == CURRENT and current else name for name in options.compute_capabilities]
        capabilities = [f"{int(name[2:]) // 10}.{int(name[2:]) % 10}" for name in names]
        hardware = f"compute capability {', '.join(capabilities)}" if capabilities else RTX_HARDWARE
    elif options.hardware_compatible:
        hardware = "compute capability 8.0 and later"
    elif current is not None:
        hardware = "compute capability {}.{}".format(*current)
    else:
        hardware = "the kind of GPU that it was built on"
    return {"backend": backend.name, "version": backend.version, **options.to_record, "hardware": hardware}
