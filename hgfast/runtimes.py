"""Exported networks in the runtimes that run them: arrays in, arrays out, the same way whatever the format.

    artefact = Artefact(Path("best.fp16.onnx"))
    keypoints = artefact(images)["keypoints"]

Each runtime is imported when an artefact needs it, and its absence is one sentence.
What may enter: running a file on arrays. No torch but where a format is torch's own; no cropping, no drawing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hgfast import sidecar as sidecars
from hgfast.errors import HgfastError
from hgfast.machine import cores, cpu_features
from hgfast.sidecar import OUTPUTS, Batch, Sidecar
from hgfast.zip_file import check_zip

Arrays = dict[str, NDArray[np.float32]]
Runner = Callable[[NDArray[Any]], Arrays]
Runtime = Literal["onnxruntime", "openvino", "torch", "tensorrt", "tensorrt_rtx"]
RUNTIMES: Mapping[str, tuple[Runtime, ...]] = {
    "onnx": ("onnxruntime", "openvino"),
    "torchscript": ("torch",),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx",),
}
"""What runs each kind of artefact, the one to be taken first."""


@dataclass(frozen=True)
class Place:
    """Where a network runs.

    threads: of a CPU; None is one a core. device: the number of the GPU, for what runs on one. stream: the handle of a CUDA
    stream of that GPU to work in, which must outlive the network; None is one of its own. bf16: OpenVINO computes what is fp32 in
    bf16, where the CPU has it; nobody else does.
    """

    threads: int | None = None
    device: int = 0
    stream: int | None = None
    bf16: bool = False


class Artefact:
    """An exported network and its sidecar.

    Args:
        path: the file; its sidecar lies beside it.
        runtime: of `RUNTIMES`; None takes the first that is installed.
        place: where it runs.

    Raises:
        HgfastError: files missing or not belonging together, a runtime that is not installed or does not run this kind, a GPU
            or a stream that it has no use for.
    """

    def __init__(self, path: Path, runtime: Runtime | None = None, place: Place | None = None) -> None:
        self.path, self.sidecar = path, sidecars.read(path)
        known = RUNTIMES[self.sidecar.kind]
        if runtime is not None and runtime not in known:
            raise HgfastError(f"{path} is {self.sidecar.kind}, which {runtime} does not run: use {' or '.join(known)}")
        first = next((name for name in known if _installed(name)), known[0])
        self.runtime: Runtime = runtime if runtime is not None else first
        self._run = open_runner(path, self.sidecar, self.runtime, place)

    def __call__(self, images: NDArray[Any]) -> Arrays:
        """What the network says of images, by the outputs' names.

        Args:
            images: (n, S, S, 3) uint8 RGB, or, where the sidecar says `normalised`, (n, 3, S, S) float32.

        Returns:
            keypoints (n, K, 3) float32, x and y in input pixels and score, and/or heatmaps (n, K, S / 4, S / 4) float32.

        Raises:
            HgfastError: images of another shape or type, more or fewer than the artefact takes at once, or a file that fails or
                gives something else than its sidecar says.
        """
        check_images(images, self.sidecar, self.path)
        try:
            found = self._run(np.ascontiguousarray(images))
        except HgfastError:
            raise
        except Exception as error:  # the runtimes' errors share no other class
            raise HgfastError(f"{self.path} failed in {self.runtime} ({_one_line(error)}): export it again") from error
        check_outputs(found, len(images), self.sidecar, self.path)
        return found

    def all(self, images: NDArray[Any]) -> Arrays:
        """As `__call__`, for any number of images but none."""
        return in_parts(self, self.sidecar.batch, images)

    def close(self) -> None:
        """Give back what an engine holds of a GPU. The artefact cannot be used any more."""
        close = getattr(self._run, "close", None)
        if close is not None:
            close()


def in_parts(run: Runner, batch: Batch, images: NDArray[Any]) -> Arrays:
    """Any number of images but none, as many at once as the batch allows; a last part that is too small is filled up."""
    found = []
    for start in range(0, len(images), batch.max):
        part = images[start : start + batch.max]
        filled = np.concatenate([part, np.repeat(part[-1:], max(0, batch.min - len(part)), axis=0)])
        found.append({name: values[: len(part)] for name, values in run(filled).items()})
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def check_images(images: NDArray[Any], sidecar: Sidecar, path: Path) -> None:
    """Raises `HgfastError` for what the artefact does not take."""
    wanted, batch = sidecar.input.shape[1:], sidecar.batch
    if images.shape[1:] != wanted or images.dtype != sidecar.input.dtype:
        raise HgfastError(
            f"{path} takes images of {' x '.join(map(str, wanted))} {sidecar.input.dtype} ({sidecar.input.axes} without N), "
            f"not {' x '.join(map(str, images.shape[1:]))} {images.dtype}"
        )
    if not batch.min <= len(images) <= batch.max:
        raise HgfastError(
            f"{path} takes {batch.min} to {batch.max} images at once, not {len(images)}: give it fewer, or export it again with "
            f"--batch {batch.min}:{batch.opt}:{max(len(images), batch.max)}"
            if len(images) > batch.max
            else f"{path} takes {batch.min} to {batch.max} images at once, not {len(images)}"
        )


def check_outputs(found: Arrays, number: int, sidecar: Sidecar, path: Path) -> None:
    """Raises `HgfastError` unless an artefact gives what its sidecar says for so many images."""
    for port in sidecar.outputs:
        given = found[port.name].shape if port.name in found else None
        if given != (number, *port.shape[1:]):
            said = f"{port.name} of shape {given}" if given is not None else f"no {port.name}"
            raise HgfastError(f"{path} gives {said}, which is not what its sidecar says: export it again")


def open_runner(model: Path | bytes, sidecar: Sidecar, runtime: Runtime, place: Place | None = None) -> Runner:
    """A function from images to arrays by name; `model` is a file, or, of an ONNX, its bytes."""
    place = place or Place()
    if runtime == "onnxruntime":
        return onnxruntime_runner(model, place)
    if runtime == "openvino":
        return openvino_runner(model, place)
    if isinstance(model, bytes):
        raise ValueError(f"{runtime} runs files")
    if runtime == "torch":
        return torchscript_runner(model, [port.name for port in sidecar.outputs], place)
    from hgfast.engine import Engine

    return Engine(model, sidecar, stream=place.stream, device=place.device)


def onnxruntime_runner(model: Path | bytes, place: Place) -> Runner:
    """onnxruntime on the CPU, or on a GPU where onnxruntime-gpu is installed."""
    ort = _import("onnxruntime", "onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = place.threads or cores()
    options.log_severity_level = 3
    gpu = "CUDAExecutionProvider"
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu in ort.get_available_providers():
        settings = {"device_id": str(place.device), "use_tf32": "0"}  # TF32 has ten bits where fp32 was exported
        if place.stream is not None:
            settings["user_compute_stream"] = str(place.stream)
        providers.insert(0, (gpu, settings))
    given = model if isinstance(model, bytes) else str(model)
    try:
        session = ort.InferenceSession(given, options, providers=providers, enable_fallback=False)
        (entry,) = session.get_inputs()
        names = [output.name for output in session.get_outputs()]
    except Exception as error:  # its errors share no other class
        raise _unreadable(model, "onnxruntime", error) from error
    if gpu not in session.get_providers():  # not installed, or it found none
        _check_cpu("onnxruntime without CUDA", place)
    return lambda images: dict(zip(names, session.run(names, {entry.name: images})))


def openvino_runner(model: Path | bytes, place: Place) -> Runner:
    """OpenVINO on the CPU, in fp32 where it would take bf16 by itself, unless the place says bf16."""
    ov = _import("openvino", "openvino")
    _check_cpu("openvino", place)
    if place.bf16 and not cpu_features().bf16:
        raise HgfastError(f"this CPU has no bf16 in hardware ({cpu_features().isa}): run the network in fp32, without bf16")
    hints = {"INFERENCE_PRECISION_HINT": "bf16" if place.bf16 else "f32", "INFERENCE_NUM_THREADS": place.threads or cores()}
    try:
        core = _core(ov)
        content = model if isinstance(model, bytes) else model.read_bytes()
        compiled = core.compile_model(core.read_model(content), "CPU", hints)
        names = [next(name for name in OUTPUTS if name in output.get_names()) for output in compiled.outputs]  # among others
    except (RuntimeError, ValueError, StopIteration) as error:
        raise _unreadable(model, "OpenVINO", error) from error
    return lambda images: {name: value.copy() for name, value in zip(names, compiled([images]).values())}


def _check_cpu(what: str, place: Place) -> None:
    """Raises `HgfastError` where a GPU or its stream is asked for and `what` computes on a CPU."""
    if place.stream is not None or place.device:
        raise HgfastError(f"{what} runs on the CPU: leave out device and stream, or take a runtime that uses a GPU")


@functools.cache
def _core(ov: Any) -> Any:
    """One for the process: of several, the first to go takes away the stack that signals are handled on, and Ctrl-C crashes."""
    return ov.Core()


def torchscript_runner(path: Path, names: list[str], place: Place) -> Runner:
    """TorchScript on a GPU, or else on the CPU."""
    torch = _import("torch", "torch")
    on_gpu = torch.cuda.is_available()
    device = f"cuda:{place.device}" if on_gpu else "cpu"
    if not on_gpu:
        _check_cpu("torch without CUDA", place)
    stream = None if place.stream is None else torch.cuda.ExternalStream(place.stream, device)
    try:
        check_zip(path, compressed=True)
        with quiet_torchscript():
            script = torch.jit.load(str(path), map_location=device).eval()
    except Exception as error:  # of a broken file it may be any
        raise _unreadable(path, "torch.jit.load", error) from error

    def run(images: NDArray[Any]) -> Arrays:
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), exact, torch.cuda.stream(stream):  # of None it makes nothing
            outputs = script(torch.from_numpy(images).to(device))
            return {name: value.cpu().numpy() for name, value in zip(names, outputs)}

    return run


@contextlib.contextmanager
def quiet_torchscript() -> Any:
    """Without torch's advice to use torch.export in the place of TorchScript, which is what was asked for."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


def _installed(runtime: Runtime) -> bool:
    return importlib.util.find_spec(runtime) is not None


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise HgfastError(f"{module} is needed to run this artefact and is not installed: pip install {package}") from error


def _unreadable(model: Path | bytes, runtime: str, error: Exception) -> HgfastError:
    what = "the ONNX" if isinstance(model, bytes) else str(model)
    return HgfastError(f"{what} cannot be read by {runtime} ({_one_line(error)}): export it again")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
