"""From an ONNX file to a TensorRT engine: one builder for TensorRT 10 and 11 and TensorRT-RTX, whose interfaces are nearly one.

The network is strongly typed: its precision is the ONNX file's, and no flag changes it.
What may enter: which library builds, and building. Networks in torch are export/torch_trt.py's, what an engine computes in is
export/proof.py's, running it is hgfast/engine.py's.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hgfast.engine import (
    NAMES,
    Library,
    Missing,
    check_header,
    heard,
    import_tensorrt,
    listen,
    one_line,
    plan_library,
    reasons,
)
from hgfast.errors import HgfastError
from hgfast.files import complete, prepare_file
from hgfast.sidecar import Batch

BACKENDS = ("auto", "tensorrt", "tensorrt_rtx", "torch_tensorrt")
TORCH_TENSORRT = "a torch built for CUDA (https://pytorch.org/get-started) and pip install torch-tensorrt"
RTX_HARDWARE = "compute capability 8.0, 8.6, 8.9, 12.0 and later"  # what TensorRT-RTX builds for unless told


class NoBuilder(HgfastError):
    """No library here builds engines; what does not need one can still be exported."""


@dataclass(frozen=True)
class Backend:
    """What builds. version: TensorRT's own, which the engine needs to run. why: why this one was taken, in a sentence.

    gpu: whether there is a GPU that torch can use.
    """

    name: Literal["tensorrt", "tensorrt_rtx", "torch_tensorrt"]
    version: str
    module: Any
    why: str
    gpu: bool


@dataclass(frozen=True)
class EngineOptions:
    """How to build.

    timing_cache: a file of kernels' times, which makes the next build faster (TensorRT, Torch-TensorRT).
    hardware_compatible: for all GPUs from Ampere on. version_compatible: for later versions of TensorRT too (TensorRT).
    workspace_gb: the most scratch memory a layer may take. optimization_level: 0 (fast to build) to 5 (fast to run).
    compute_capabilities: the GPUs to build for, such as SM86 (TensorRT-RTX).
    """

    timing_cache: Path | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    workspace_gb: float | None = None
    optimization_level: int | None = None
    compute_capabilities: tuple[str, ...] = ()

    def check(self, backend: str) -> None:
        """Raises `HgfastError` for what is out of range or what the backend cannot do."""
        if self.workspace_gb is not None and self.workspace_gb <= 0:
            raise HgfastError(f"a workspace of {self.workspace_gb} GB is none: give more, or nothing for all memory")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise HgfastError(f"the optimization level is {self.optimization_level}, must be 0 to 5")
        if backend == "tensorrt_rtx" and self.version_compatible:
            raise HgfastError("TensorRT-RTX cannot build version-compatible engines: leave it out, or build with tensorrt")
        if backend == "torch_tensorrt" and self.version_compatible:  # it excludes the runtime such an engine should carry
            raise HgfastError("Torch-TensorRT's version-compatible engines do not run by themselves: build with tensorrt")
        if backend == "tensorrt_rtx" and self.timing_cache is not None:
            raise HgfastError("TensorRT-RTX times no kernels when it builds: leave the timing cache out")
        if backend != "tensorrt_rtx" and self.compute_capabilities:
            raise HgfastError(
                f"{backend} builds for the GPU of the machine, not for {', '.join(self.compute_capabilities)}: "
                "ask for a hardware-compatible engine, or build with tensorrt_rtx"
            )

    @property
    def plain(self) -> dict[str, Any]:
        """Those that an engine's user may want to know, for its sidecar."""
        return {
            "hardware_compatible": self.hardware_compatible,
            "version_compatible": self.version_compatible,
            "workspace_gb": self.workspace_gb,
            "optimization_level": self.optimization_level,
        }


@dataclass(frozen=True)
class Built:
    """An engine. plan: to write to a file. parse_s, build_s: how long it took. warnings: what the library said meanwhile.

    about: plain values for the sidecar's `builder`. layers: what the engine's inspector says of it, JSON, where there is a GPU.
    """

    plan: bytes
    parse_s: float
    build_s: float
    warnings: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)
    layers: str | None = None

    @property
    def library(self) -> Library:
        """Which library runs it: the sidecar's `kind`."""
        found = plan_library(self.plan)
        if found is None:
            raise HgfastError("what was built is no TensorRT engine, going by its first bytes: see what the builder said")
        return found


def gpu_usable() -> bool:
    """Whether torch finds a GPU that it can use."""
    import torch

    return torch.cuda.is_available()


def import_torch_tensorrt() -> Any:
    """torch_tensorrt. Raises `Missing` with what to install."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):  # it prints what it raises
            return importlib.import_module("torch_tensorrt")
    except Exception as error:  # what it raises without a CUDA torch or TensorRT's libraries is a plain Exception
        raise Missing(f"Torch-TensorRT cannot be imported ({one_line(str(error))})", f"install {TORCH_TENSORRT}") from error


def find_backend(wanted: str, gpu: bool | None = None) -> Backend:
    """What to build with. gpu: whether there is one, found out where None.

    auto is TensorRT where there is a GPU, else Torch-TensorRT, which needs one too, else TensorRT-RTX.

    Raises:
        NoBuilder: auto, and none can be imported.
        HgfastError: an unknown name, or the one that is asked for cannot be imported, or cannot build without a GPU.
    """
    if wanted not in BACKENDS:
        raise HgfastError(f"there is no backend {wanted!r}: choose from {', '.join(BACKENDS)}")
    gpu = gpu_usable() if gpu is None else gpu
    if wanted != "auto":
        backend = _backend(wanted, "as asked for", gpu)
        if not gpu and wanted != "tensorrt_rtx":
            raise HgfastError(
                f"{wanted} builds engines only where there is an NVIDIA GPU, and torch finds none that it can use: "
                "build on a machine with one, or with tensorrt_rtx, which needs none"
            )
        return backend
    passed = [] if gpu else ["TensorRT and Torch-TensorRT build only with a GPU, and torch finds none that it can use"]
    for name in ("tensorrt", "torch_tensorrt", "tensorrt_rtx") if gpu else ("tensorrt_rtx",):
        try:
            return _backend(name, "; ".join([_MERITS[name], *passed]), gpu)
        except Missing as error:
            passed.append(error.why)
    raise NoBuilder(
        f"nothing here builds TensorRT engines ({'; '.join(passed)}): pip install tensorrt-rtx-cu13-libs "
        "tensorrt-rtx-cu13-bindings, which needs no GPU to build, or, on a machine with a GPU, pip install tensorrt-cu13"
    )


_MERITS = {
    "tensorrt": "builds for this machine's GPU",
    "torch_tensorrt": "builds for this machine's GPU from torch",
    "tensorrt_rtx": "builds engines that fit several kinds of GPU",
}


def _backend(name: str, why: str, gpu: bool) -> Backend:
    if name == "torch_tensorrt":
        module = import_torch_tensorrt()
        version = str(importlib.import_module("tensorrt").__version__)
        return Backend("torch_tensorrt", version, module, f"torch_tensorrt {module.__version__}: {why}", gpu)
    library: Library = "tensorrt_rtx" if name == "tensorrt_rtx" else "tensorrt"
    module = import_tensorrt(library)
    return Backend(library, str(module.__version__), module, f"{library} {module.__version__}: {why}", gpu)


def build(onnx: Path, batch: Batch, backend: Backend, options: EngineOptions) -> Built:
    """An engine of an ONNX file, tuned for `batch`. Takes seconds with TensorRT-RTX and minutes with TensorRT.

    Raises:
        HgfastError: the file is no ONNX, holds what the library does not know, does not agree with `batch`, or does not build.
    """
    if backend.name == "torch_tensorrt":
        raise ValueError("torch_tensorrt builds from a module, in export/torch_trt.py")
    options.check(backend.name)
    check_batch(batch)
    if options.timing_cache is not None:
        prepare_file(options.timing_cache, "--timing-cache")
    trt = backend.module
    logger = listen(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # how the bindings say that there is no builder
        raise HgfastError(
            f"{NAMES[backend.name]} {backend.version} does not start ({reasons(logger)}): update the NVIDIA driver"
        ) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    began = time.perf_counter()
    _parse(trt, network, logger, onnx)
    parse_s = time.perf_counter() - began
    config = builder.create_builder_config()
    _configure(trt, config, backend, options)
    notes = [] if options.timing_cache is None else _read_times(config, options.timing_cache, logger)
    _set_profile(builder, config, network, batch, onnx, logger)
    began = time.perf_counter()
    serialized = builder.build_serialized_network(network, config)
    build_s = time.perf_counter() - began
    if serialized is None:
        raise HgfastError(f"{NAMES[backend.name]} cannot build {onnx} ({reasons(logger)}): {_advice(reasons(logger))}")
    plan = bytes(serialized)
    if options.timing_cache is not None:
        notes += _write_times(config, options.timing_cache)
    notes += [*heard(logger, "warning"), *heard(logger, "error")]
    check_plan(plan, backend)
    layers = None
    if backend.gpu:
        layers = inspect(plan, backend)
        notes += [] if layers else [f"the engine cannot be inspected here ({reasons(logger)})"]
    about = {"backend": backend.name, "version": backend.version, **options.plain, "hardware": _hardware(backend, options)}
    return Built(plan, parse_s, build_s, tuple(dict.fromkeys(notes)), about, layers)


def check_batch(batch: Batch) -> None:
    """Raises `HgfastError` unless 1 <= min <= opt <= max."""
    if not 1 <= batch.min <= batch.opt <= batch.max:
        raise HgfastError(f"a batch of {batch.min}:{batch.opt}:{batch.max} is not at least 1 and ascending: give min:opt:max")


def check_plan(plan: bytes, backend: Backend) -> None:
    """See by its header, without a GPU, that a plan is whole. Raises `HgfastError` for one that is broken."""
    library: Library = "tensorrt_rtx" if backend.name == "tensorrt_rtx" else "tensorrt"
    check_header(plan, plan_library(plan) or library if backend.name == "torch_tensorrt" else library, "the engine")


def inspect(plan: bytes, backend: Backend) -> str | None:
    """What an engine's layers are, JSON, or None where it cannot be loaded. Needs a GPU."""
    library: Library = plan_library(plan) or "tensorrt"
    trt = import_tensorrt(library) if backend.name == "torch_tensorrt" else backend.module
    runtime = trt.Runtime(listen(trt))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _parse(trt: Any, network: Any, logger: Any, onnx: Path) -> None:
    """Read the file into the network."""
    try:
        data = onnx.read_bytes()
    except OSError as error:
        raise HgfastError(f"{onnx} cannot be read ({error.strerror}): export it with export/to_onnx.py") from error
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(data, str(onnx)):
        faults = []
        for index in range(parser.num_errors):
            fault = parser.get_error(index)
            where = f" at node {fault.node_name()} ({fault.node_operator()})" if fault.node_operator() else ""
            faults.append(f"{fault.code().name}{where}: {one_line(fault.desc())}")
        raise HgfastError(f"{onnx} cannot be read as a network ({'; '.join(faults) or reasons(logger)}): export it again")
    if not network.num_inputs or not network.num_outputs:  # of an empty file the parser finds nothing wrong
        raise HgfastError(f"{onnx} holds no network with an input and an output: export it again")


def _configure(trt: Any, config: Any, backend: Backend, options: EngineOptions) -> None:
    """What is asked for in options."""
    if backend.gpu:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # without it the inspector knows layers by name only
    if options.workspace_gb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gb * (1 << 30)))
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    config.clear_flag(trt.BuilderFlag.TF32)  # ten bits where fp32 was asked for
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible and backend.name != "tensorrt_rtx":  # TensorRT-RTX's engines are, and it has no such level
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.compute_capabilities:
        known = {name: one for name, one in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
        for name in options.compute_capabilities:
            if name not in known:
                raise HgfastError(f"{NAMES['tensorrt_rtx']} cannot build for {name!r}: choose from {', '.join(known)}")
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, name in enumerate(options.compute_capabilities):
            config.set_compute_capability(known[name], index)


def _read_times(config: Any, path: Path, logger: Any) -> list[str]:
    """Give the builder the times of kernels that a file holds, and none where there is no such file."""
    try:
        before = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise HgfastError(f"the timing cache {path} cannot be read ({error.strerror}): choose another") from error
    cache = config.create_timing_cache(before)
    if cache is not None and config.set_timing_cache(cache, False):
        return []
    cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise HgfastError(f"no timing cache can be made ({reasons(logger)}): leave {path} out")
    return [f"the timing cache {path} is not of this GPU and this TensorRT: its times are not used and will be replaced"]


def _write_times(config: Any, path: Path) -> list[str]:
    """Keep the times of kernels. Not being able to does not undo a build of minutes, and is said."""
    cache = config.get_timing_cache()
    if cache is None:
        return [f"the builder gave no times of kernels to keep in {path}"]
    try:
        with complete(path) as beside:
            beside.write_bytes(bytes(cache.serialize()))
    except OSError as error:
        return [f"the timing cache {path} cannot be written ({error.strerror})"]
    return []


def _set_profile(builder: Any, config: Any, network: Any, batch: Batch, onnx: Path, logger: Any) -> None:
    """Tell the builder which batch sizes will come, where the file leaves that free."""
    profile = builder.create_optimization_profile()
    free = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if any(side < 0 for side in shape[1:]):
            raise HgfastError(f"{onnx} leaves more of its input {tensor.name} {shape} free than the batch size: export it again")
        if shape[0] >= 0:
            if {batch.min, batch.max} != {shape[0]}:
                raise HgfastError(f"{onnx} takes {shape[0]} images at once, not {batch.words}: export it with a free batch size")
            continue
        free = True
        profile.set_shape(tensor.name, *((size, *shape[1:]) for size in (batch.min, batch.opt, batch.max)))
    if free and config.add_optimization_profile(profile) < 0:
        raise HgfastError(f"{onnx} cannot be built for a batch of {batch.words} ({reasons(logger)}): choose another")


def _advice(reason: str) -> str:
    if "memory" in reason.lower():
        return "build for a smaller batch"
    return "see whether a newer TensorRT builds it"


def _hardware(backend: Backend, options: EngineOptions) -> str:
    """The GPUs that an engine is for."""
    if backend.name == "tensorrt_rtx":
        chosen = [f"{int(name[2:]) // 10}.{int(name[2:]) % 10}" for name in options.compute_capabilities]
        return f"compute capability {', '.join(chosen)}" if chosen else RTX_HARDWARE
    return hardware(options)


def hardware(options: EngineOptions) -> str:
    """The GPUs that an engine is for which is built on this machine's."""
    import torch

    if options.hardware_compatible:
        return "compute capability 8.0 and later"
    if not torch.cuda.is_available():
        return "the kind of GPU that it was built on"
    major, minor = torch.cuda.get_device_capability()
    return f"compute capability {major}.{minor}"
