"""Run exported networks in their runtimes: arrays in, arrays out, with the same interface for all formats.

    artifact = Artifact(Path("best.fp16.onnx"))
    keypoints = artifact(images)["keypoints"]

A runtime is imported when an artifact needs it; if it is missing, the error names the package to install. Only TorchScript
requires torch.
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

from hgfast.errors import HgfastError, one_line
from hgfast.fileio.onnx_file import check_onnx
from hgfast.fileio.zip_file import check_zip
from hgfast.runtime import sidecar as sidecars
from hgfast.runtime.sidecar import OUTPUT_NAMES, BatchRange, Sidecar
from hgfast.system_info import available_cores, cpu_features

Outputs = dict[str, NDArray[np.float32]]
RunFn = Callable[[NDArray[Any]], Outputs]
RuntimeName = Literal["onnxruntime", "openvino", "torch", "tensorrt", "tensorrt_rtx"]
RUNTIMES_BY_FORMAT: Mapping[str, tuple[RuntimeName, ...]] = {
    "onnx": ("onnxruntime", "openvino"),
    "torchscript": ("torch",),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx",),
}
"""Runtimes of each export format, the preferred one first."""

CUDA_PROVIDER = "CUDAExecutionProvider"  # of onnxruntime


@dataclass(frozen=True)
class DeviceOptions:
    """Where and how a network runs; see `hgfast.runtime.Session` for the fields."""

    threads: int | None = None
    device: int = 0
    stream: int | None = None
    bf16: bool = False


class Artifact:
    """An exported network and its sidecar.

    Args:
        path: the exported file, with its sidecar in the same folder.
        runtime: one of `RUNTIMES_BY_FORMAT`; None takes the first that is installed.
        options: where and how the network runs.

    Raises:
        HgfastError: a file is missing, the files do not belong together, the runtime is not installed or does not run this
            format, or a GPU or stream is given to a runtime that cannot use it.
    """

    def __init__(self, path: Path, runtime: RuntimeName | None = None, options: DeviceOptions | None = None) -> None:
        self.path, self.sidecar = path, sidecars.read_sidecar(path)
        supported = RUNTIMES_BY_FORMAT[self.sidecar.export_format]
        if runtime is not None and runtime not in supported:
            raise HgfastError(
                f"{path} is {self.sidecar.export_format}, which {runtime} does not run: use {' or '.join(supported)}"
            )
        default = next((name for name in supported if is_installed(name)), supported[0])
        self.runtime: RuntimeName = runtime if runtime is not None else default
        self._run = make_run_fn(path, self.sidecar, self.runtime, options)

    def __call__(self, images: NDArray[Any]) -> Outputs:
        """Run the network and return its outputs by name.

        Args:
            images: (n, S, S, 3) uint8 RGB, or normalized (n, 3, S, S) float32 if `sidecar.normalized`.

        Returns:
            keypoints (n, K, 3) float32, x and y in input pixels and score; heatmaps (n, K, S / stride, S / stride) float32.

        Raises:
            HgfastError: the images have another shape or type, their number is outside the batch range, the runtime fails, or
                the outputs do not match the sidecar.
        """
        check_images(images, self.sidecar, self.path)
        try:
            outputs = self._run(np.ascontiguousarray(images))
        except HgfastError:
            raise
        except Exception as error:  # the runtimes have no common error class
            raise HgfastError(f"{self.path} failed in {self.runtime} ({one_line(error)}): export it again") from error
        check_outputs(outputs, len(images), self.sidecar, self.path)
        return outputs

    def all(self, images: NDArray[Any]) -> Outputs:
        """Like `__call__`, for any positive number of images."""
        return run_in_batches(self, self.sidecar.batch, images)

    def close(self) -> None:
        """Free the GPU resources of an engine. The artifact cannot be used afterwards."""
        close = getattr(self._run, "close", None)
        if close is not None:
            close()


def run_in_batches(run: RunFn, batch: BatchRange, images: NDArray[Any]) -> Outputs:
    """Run any positive number of images in batches of at most `batch.max`; the last one is padded to `batch.min`."""
    results = []
    for start in range(0, len(images), batch.max):
        part = images[start : start + batch.max]
        padded = np.concatenate([part, np.repeat(part[-1:], max(0, batch.min - len(part)), axis=0)])
        results.append({name: values[: len(part)] for name, values in run(padded).items()})
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def check_images(images: NDArray[Any], sidecar: Sidecar, path: Path) -> None:
    """Raise `HgfastError` for images that the artifact does not accept."""
    expected, batch = sidecar.input.shape[1:], sidecar.batch
    if images.shape[1:] != expected or images.dtype != sidecar.input.dtype:
        raise HgfastError(
            f"{path} takes images of {' x '.join(map(str, expected))} {sidecar.input.dtype} ({sidecar.input.axes} without N), "
            f"not {' x '.join(map(str, images.shape[1:]))} {images.dtype}"
        )
    if not batch.min <= len(images) <= batch.max:
        raise HgfastError(
            f"{path} takes {batch.min} to {batch.max} images at once, not {len(images)}: give it fewer, or export it again with "
            f"--batch {batch.min}:{batch.opt}:{max(len(images), batch.max)}"
            if len(images) > batch.max
            else f"{path} takes {batch.min} to {batch.max} images at once, not {len(images)}"
        )


def check_outputs(outputs: Outputs, count: int, sidecar: Sidecar, path: Path) -> None:
    """Raise `HgfastError` unless the outputs for `count` images match the sidecar."""
    for port in sidecar.outputs:
        actual_shape = outputs[port.name].shape if port.name in outputs else None
        if actual_shape != (count, *port.shape[1:]):
            actual = f"{port.name} of shape {actual_shape}" if actual_shape is not None else f"no {port.name}"
            raise HgfastError(f"{path} gives {actual}, which is not what its sidecar says: export it again")


def make_run_fn(model: Path | bytes, sidecar: Sidecar, runtime: RuntimeName, options: DeviceOptions | None = None) -> RunFn:
    """Return a function from images to outputs by name. model: a file, or the bytes of an ONNX model."""
    options = options or DeviceOptions()
    if runtime == "onnxruntime":
        return make_onnxruntime_fn(model, options)
    if runtime == "openvino":
        return make_openvino_fn(model, options)
    if isinstance(model, bytes):
        raise ValueError(f"{runtime} runs files")
    if runtime == "torch":
        return make_torchscript_fn(model, [port.name for port in sidecar.outputs], options)
    from hgfast.runtime.tensorrt_engine import Engine

    return Engine(model, sidecar, stream=options.stream, device=options.device)


def make_onnxruntime_fn(model: Path | bytes, options: DeviceOptions) -> RunFn:
    """Run in onnxruntime, on a GPU if onnxruntime-gpu is installed and finds one, else on the CPU."""
    ort = import_or_explain("onnxruntime", "onnxruntime")
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = options.threads or available_cores()
    session_options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if CUDA_PROVIDER in ort.get_available_providers():
        settings = {"device_id": str(options.device), "use_tf32": "0"}  # TF32 has only ten bits of mantissa
        if options.stream is not None:
            settings["user_compute_stream"] = str(options.stream)
        providers.insert(0, (CUDA_PROVIDER, settings))
    source = model if isinstance(model, bytes) else str(model)
    try:
        check_onnx(model if isinstance(model, bytes) else model.read_bytes())
        session = ort.InferenceSession(source, session_options, providers=providers, enable_fallback=False)
        (model_input,) = session.get_inputs()
        names = [output.name for output in session.get_outputs()]
    except Exception as error:  # onnxruntime's errors have no common class
        raise _cannot_read(model, "onnxruntime", error) from error
    if CUDA_PROVIDER not in session.get_providers():  # not installed, or no GPU was found
        _check_cpu("onnxruntime without CUDA", options)
    return lambda images: dict(zip(names, session.run(names, {model_input.name: images})))


def make_openvino_fn(model: Path | bytes, options: DeviceOptions) -> RunFn:
    """Run in OpenVINO on the CPU, in fp32 unless `options.bf16`; by default OpenVINO would choose bf16 itself."""
    ov = import_or_explain("openvino", "openvino")
    _check_cpu("openvino", options)
    if options.bf16 and not cpu_features().bf16:
        raise HgfastError(f"this CPU has no bf16 in hardware ({cpu_features().isa}): run the network in fp32, without bf16")
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if options.bf16 else "f32",
        "INFERENCE_NUM_THREADS": options.threads or available_cores(),
    }
    try:
        core = _openvino_core(ov)
        content = model if isinstance(model, bytes) else model.read_bytes()
        check_onnx(content)
        compiled = core.compile_model(core.read_model(content), "CPU", hints)
        names = [
            next(name for name in OUTPUT_NAMES if name in output.get_names()) for output in compiled.outputs
        ]  # an output may have several names
    except (RuntimeError, ValueError, StopIteration) as error:
        raise _cannot_read(model, "OpenVINO", error) from error
    return lambda images: {name: value.copy() for name, value in zip(names, compiled([images]).values())}


def _check_cpu(runtime: str, options: DeviceOptions) -> None:
    """Raise `HgfastError` if a GPU or a stream is requested of a runtime that runs on the CPU."""
    if options.stream is not None or options.device:
        raise HgfastError(f"{runtime} runs on the CPU: leave out device and stream, or choose a runtime that uses a GPU")


@functools.cache
def _openvino_core(ov: Any) -> Any:
    """Return the process-wide core. Freeing one of several frees the signal stack, and Ctrl-C crashes."""
    return ov.Core()


def make_torchscript_fn(path: Path, names: list[str], options: DeviceOptions) -> RunFn:
    """Run TorchScript on a GPU if torch finds one, else on the CPU."""
    torch = import_or_explain("torch", "torch")
    from hgfast.runtime.torch_predictor import no_tf32  # here, because it needs torch

    on_gpu = torch.cuda.is_available()
    device = f"cuda:{options.device}" if on_gpu else "cpu"
    if not on_gpu:
        _check_cpu("torch without CUDA", options)
    stream = None if options.stream is None else torch.cuda.ExternalStream(options.stream, device)
    try:
        check_zip(path, allow_compressed=True)
        with ignore_torchscript_deprecation():
            script = torch.jit.load(str(path), map_location=device).eval()
    except Exception as error:  # a broken file may raise anything
        raise _cannot_read(path, "torch.jit.load", error) from error

    def run(images: NDArray[Any]) -> Outputs:
        with torch.inference_mode(), no_tf32(), torch.cuda.stream(stream):  # None has no effect
            outputs = script(torch.from_numpy(images).to(device))
            return {name: value.cpu().numpy() for name, value in zip(names, outputs)}

    return run


@contextlib.contextmanager
def ignore_torchscript_deprecation() -> Any:
    """Suppress torch's warning that TorchScript is deprecated."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


def is_installed(runtime: RuntimeName) -> bool:
    """Whether the runtime's package is installed. It is not imported."""
    return importlib.util.find_spec(runtime) is not None


def import_or_explain(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise HgfastError(f"{module} is needed to run this artifact and is not installed: pip install {package}") from error


def _cannot_read(model: Path | bytes, runtime: str, error: Exception) -> HgfastError:
    source = "the ONNX" if isinstance(model, bytes) else str(model)
    return HgfastError(f"{source} cannot be read by {runtime} ({one_line(error)}): export it again")
