"""TensorRT engines: the library that runs them, the header of a plan, and an engine that takes and gives numpy arrays.

What may enter: what running an engine needs, for TensorRT 10 and 11 and TensorRT-RTX alike. Building is export/engines.py's;
torch, which holds the memory on the GPU, is imported when an engine is made.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.sidecar import Sidecar

Library = Literal["tensorrt", "tensorrt_rtx"]
NAMES: dict[Library, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
PACKAGES: dict[Library, str] = {
    "tensorrt": "tensorrt-cu13",
    "tensorrt_rtx": "tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
}
MAGIC: dict[bytes, Library] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}  # trtexec's kPLAN_FILE_TAG; the other by looking
HEADER = 64  # bytes; what `Runtime.engine_header_size` is


class Missing(HgfastError):
    """A library that cannot be imported. why: without what to install."""

    def __init__(self, why: str, packages: str) -> None:
        super().__init__(f"{why}: {packages}")
        self.why = why


class NoGpu(HgfastError):
    """An engine is whole, but there is no GPU here to run it on."""


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


class Engine:
    """An engine on the GPU, ready to run: `engine(images)` -> what `sidecar.outputs` names, as arrays.

    path: the plan. sidecar: as `hgfast.sidecar.read` gives it. Not for several threads at once. The buffers on the GPU stay
    where they are for as long as the batch size stays the same.

    Raises:
        HgfastError: the plan is broken or of another version than the library, the library or torch is missing, there is no
            GPU, or the library refuses the plan.
    """

    def __init__(self, path: Path, sidecar: Sidecar) -> None:
        if sidecar.kind not in NAMES or sidecar.builder is None:
            raise HgfastError(f"{path} is no TensorRT engine, as its sidecar says: run it with what made it")
        self.path, self.sidecar = path, sidecar
        name: Library = "tensorrt_rtx" if sidecar.kind == "tensorrt_rtx" else "tensorrt"
        compatible = bool(sidecar.builder.get("version_compatible"))
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise HgfastError(f"{path} cannot be read ({error.strerror}): check where it lies") from error
        trt = import_tensorrt(name)
        check_header(plan, name, str(path))
        check_version(plan, name, str(sidecar.builder["version"]), compatible, str(path))
        self.torch = _torch_with_gpu(path, name)
        self.trt, self.logger = trt, listen(trt)
        runtime = trt.Runtime(self.logger)
        if compatible:
            runtime.engine_host_code_allowed = True  # such a plan carries the runtime of the version that built it
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise HgfastError(f"{NAMES[name]} cannot load {path} ({self._why(runtime, plan, name)}): build it on this machine")
        context = engine.create_execution_context()
        if context is None:
            raise HgfastError(f"{path} cannot start ({reasons(self.logger)}): free memory on the GPU, or build a smaller batch")
        self.runtime, self.engine, self.context = runtime, engine, context
        self.stream = self.torch.cuda.Stream()
        self.input, self.outputs = self._ports()
        self._shape: tuple[int, ...] | None = None

    def __call__(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """(N, ...) as `sidecar.input` has it -> one array (N, ...) for each of `sidecar.outputs`, by name.

        Raises:
            HgfastError: the engine does not take images of this shape or type, or fails.
        """
        if images.dtype != np.dtype(self._dtype(self.input)):
            raise HgfastError(f"{self.path} takes {np.dtype(self._dtype(self.input))}, not {images.dtype}: convert the images")
        if images.shape != self._shape:
            self._prepare(images.shape)
        cuda = self.torch.cuda
        with cuda.stream(self.stream):
            np.copyto(self._host[self.input].numpy(), images)
            self._device[self.input].copy_(self._host[self.input], non_blocking=True)
            self.logger.lines.clear()
            context = self.context
            if not context.execute_async_v3(self.stream.cuda_stream):
                raise HgfastError(f"{self.path} failed ({reasons(self.logger)}): build it again on this machine")
            for port in self.outputs.values():
                self._host[port].copy_(self._device[port], non_blocking=True)
        self.stream.synchronize()
        return {name: self._host[port].numpy().copy() for name, port in self.outputs.items()}

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Buffers on both sides for images of a shape."""
        context = self.context
        self._shape = None
        self.logger.lines.clear()
        if not context.set_input_shape(self.input, shape):
            raise HgfastError(
                f"{self.path} takes no images of shape {shape} ({reasons(self.logger)}): give what its sidecar names"
            )
        shapes = {self.input: shape}
        shapes |= {port: tuple(context.get_tensor_shape(port)) for port in self.outputs.values()}
        self._host: dict[str, Any] = {}
        self._device: dict[str, Any] = {}
        for port, size in shapes.items():
            kind = self.torch.from_numpy(np.empty(0, self._dtype(port))).dtype
            self._host[port] = self.torch.empty(size, dtype=kind, pin_memory=True)
            self._device[port] = self.torch.empty(size, dtype=kind, device="cuda")
            if not context.set_tensor_address(port, self._device[port].data_ptr()):
                raise HgfastError(f"{self.path} takes no buffer for {port} ({reasons(self.logger)}): build it again")
        self.torch.cuda.synchronize()  # the buffers were made on another stream than the one that they are used on
        self._shape = shape

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

    def _dtype(self, port: str) -> Any:
        """The numpy type of one of the engine's inputs and outputs."""
        trt, engine = self.trt, self.engine
        return trt.nptype(engine.get_tensor_dtype(port))

    def _why(self, runtime: Any, plan: bytes, name: Library) -> str:
        """What is known of why a plan was refused."""
        told = reasons(self.logger)
        if name == "tensorrt_rtx":  # TensorRT has no such question
            trt = self.trt
            found = runtime.get_engine_validity(plan[: runtime.engine_header_size])[1]
            members = trt.EngineInvalidityDiagnostics.__members__
            told = "; ".join([*(key for key, bit in members.items() if int(found) & int(bit)), told])
        return told


def _torch_with_gpu(path: Path, name: Library) -> Any:
    """torch, which keeps the engine's memory, once it has found a GPU."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise HgfastError(f"running {path} needs torch, which keeps its memory on the GPU: pip install torch") from error
    if not torch.cuda.is_available():
        raise NoGpu(
            f"running {path} needs an NVIDIA GPU, and torch {torch.__version__} finds none that it can use: use a machine that "
            f"has one, with a torch built for CUDA, or export to ONNX, which runs without"
        )
    return torch


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
