"""Variants of `latency.py`: a network in a runtime and precision, as an endless generator of batches.

A batch is from uint8 RGB images in memory to keypoints in memory, including normalization and decoding (in fp32) in every
runtime; with `end_to_end` from the bytes of JPEG files and boxes to keypoints in pixels of the photographs. Every variant has its
own process (see `harness.interleaved`) and first writes its keypoints for the accuracy images. On a GPU a variant uses one
stream; CUDA events around a batch measure the time there, copies included.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hgfast.bench.harness.interleaved import BatchInfo, BatchIterator
from hgfast.bench.princeton.loader import crop_square
from hgfast.checkpoints import load_model
from hgfast.geometry import crop_matrices, transform_points, warp
from hgfast.normalization import Normalization, apply_color_affine, normalization_affine
from hgfast.runtime.backends import Artifact, DeviceOptions
from hgfast.runtime.sidecar import KEYPOINTS
from hgfast.runtime.torch_predictor import decode_keypoints, forward_heatmaps, no_tf32
from hgfast.training.amp import autocast, resolve_amp
from hgfast.training.distributed import configure_cudnn

Images = NDArray[np.uint8]
Predictor = Callable[[Images], NDArray[Any]]
"""(n, S, S, 3) uint8 RGB -> keypoints (n, K, 3): x, y in input pixels, score."""

TORCH_METHODS = ("seed_style", "channels_last", "autocast", "compile")
"""Variants of a checkpoint in torch: as in princeton's code; with channels_last weights; the latter in bf16 (fp16 on a GPU); the
latter in fp32 with torch.compile (with CUDA graphs on a GPU)."""
PHOTO_SCALE = 2.8  # side of the photographs of end-to-end rows, relative to that of the input
FLIPS = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # steps along rows and columns, which make four different images of one


@dataclass(frozen=True, eq=False)
class LatencyVariant:
    """A row. file: checkpoint or artifact. size: side of the input in pixels. work: folder of images.npy and the keypoints."""

    method: str
    runtime: str
    precision: str
    file: Path
    preset: str
    size: int
    batch: int
    threads: int
    work: Path
    flip_test: bool = False
    end_to_end: bool = False

    @property
    def name(self) -> str:
        end = ", end to end" * self.end_to_end
        return f"{self.method} {self.precision} of {self.file.name}, batch {self.batch}{end}"

    @property
    def process(self) -> str:
        return self.name

    @property
    def points(self) -> Path:
        """The file of the keypoints (P, K, 3) of all images."""
        return self.work / f"{self.method}-{self.precision}-{self.file.name}.npy"

    @property
    def cuda(self) -> bool:
        """Whether the variant runs on a GPU."""
        return (
            torch.cuda.is_available() and (self.runtime != "onnxruntime" or has_cuda_onnxruntime()) and self.runtime != "openvino"
        )

    @cached_property
    def stream(self) -> torch.cuda.Stream | None:
        """The CUDA stream, created on first use; None on a CPU."""
        return torch.cuda.Stream() if self.cuda else None  # type: ignore[no-untyped-call]

    @property
    def device_options(self) -> DeviceOptions:
        """The options with which an artifact is opened."""
        stream = None if self.stream is None else self.stream.cuda_stream
        return DeviceOptions(self.threads, stream=stream, bf16=self.precision == "bf16")

    def load(self) -> None:
        torch.set_num_threads(self.threads)
        if self.cuda:
            torch.zeros(1, device="cuda")

    def start(self) -> BatchIterator:
        with torch.cuda.stream(self.stream):  # no-op for None
            yield from self._batches()

    def _batches(self) -> BatchIterator:
        predict = (torch_predictor if self.method in TORCH_METHODS else artifact_predictor)(self)
        images = np.load(self.work / "images.npy")
        if not self.end_to_end:
            np.save(self.points, predict_all(predict, images, self.batch))
        inputs = make_batches(images, self.batch)
        predict_photo = photo_predictor(self, predict, inputs) if self.end_to_end else None
        for number in count():
            work = partial(predict_photo, number) if predict_photo is not None else partial(predict, inputs[number % len(inputs)])
            yield BatchInfo(self.batch, gpu_ms=time_on_stream(self.stream, work))


def has_cuda_onnxruntime() -> bool:
    """Return whether the installed onnxruntime supports CUDA."""
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def time_on_stream(stream: torch.cuda.Stream | None, work: Callable[[], object]) -> float:
    """Run `work` and return its milliseconds in the stream by CUDA events; 0 without a stream."""
    if stream is None:
        work()
        return 0.0
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record(stream)
    work()
    end.record(stream)
    end.synchronize()
    return float(begin.elapsed_time(end))


def predict_all(predict: Predictor, images: Images, batch: int) -> NDArray[Any]:
    """Return the keypoints of all images, predicted in batches of size `batch`."""
    index = np.resize(np.arange(len(images)), -(-len(images) // batch) * batch).reshape(-1, batch)
    return np.concatenate([predict(np.ascontiguousarray(images[rows])) for rows in index])[: len(images)]


def make_batches(images: Images, batch: int) -> list[Images]:
    """Return different batches, so that a variant does not process the same batch twice in a row."""
    flipped = np.concatenate([images[:, ::down, ::across] for down, across in FLIPS])
    rows = [np.arange(first, first + batch) % len(flipped) for first in range(0, len(flipped), max(batch, len(flipped) // 8))]
    return [np.ascontiguousarray(flipped[batch_rows]) for batch_rows in rows]


def torch_predictor(variant: LatencyVariant) -> Predictor:
    """Predict in torch: `seed_style` as in princeton's test.py, the others as hgfast does, with autocast or torch.compile.

    princeton's is fp32 (TF32 on a GPU) with nothing fused. Its weights are NCHW, but the images are NHWC and only their axes are
    permuted, so torch computes in channels_last.
    """
    model: Any = load_model(variant.file, "cuda" if variant.cuda else "cpu")  # with channels_last weights
    device, affine = next(model.parameters()).device, network_affine(model.meta.normalization)
    configure_cudnn(deterministic=False, device=device)
    normalizes_on = "cpu" if variant.method == "seed_style" else device  # as princeton's and hgfast's code do
    if variant.method == "seed_style":
        model = model.to(memory_format=torch.contiguous_format)
    if variant.method == "compile":
        model.compile(mode="reduce-overhead" if device.type == "cuda" else "default", dynamic=False)
    amp = resolve_amp("auto", device) if variant.method == "autocast" else "off"
    allow_tf32 = variant.method == "seed_style" and torch.backends.cudnn.allow_tf32

    @torch.no_grad()
    def predict(images: Images) -> NDArray[Any]:
        inputs = normalize(torch.from_numpy(images).to(normalizes_on), affine).to(device)
        with nullcontext() if allow_tf32 else no_tf32(), autocast(amp, device):
            heatmaps = forward_heatmaps(model, inputs, variant.flip_test)
        return decode_keypoints(model, heatmaps.float()).cpu().numpy()

    return predict


def artifact_predictor(variant: LatencyVariant) -> Predictor:
    """Predict with an ONNX, TorchScript or engine, opened as hgfast.runtime does."""
    runtime: Any = variant.runtime
    artifact = Artifact(variant.file, runtime, variant.device_options)
    sidecar = artifact.sidecar
    if not sidecar.normalized:
        return lambda images: artifact(images)[KEYPOINTS]
    affine = network_affine(Normalization(sidecar.mean, sidecar.std))
    return lambda images: artifact(normalize(torch.from_numpy(images), affine).contiguous().numpy())[KEYPOINTS]


def network_affine(normalization: Normalization) -> NDArray[np.float32]:
    return normalization_affine(np.eye(3, 4, dtype=np.float32)[None], normalization)


def normalize(images: Tensor, affine: NDArray[np.float32]) -> Tensor:
    return apply_color_affine(images, torch.from_numpy(affine).to(images.device).expand(len(images), -1, -1))


def photo_predictor(variant: LatencyVariant, predict: Predictor, inputs: list[Images]) -> Callable[[int], NDArray[np.float64]]:
    """Return a function that decodes the JPEGs of a batch, crops, predicts, and transforms the keypoints back to the photographs;
    the crop is princeton's for its row, otherwise hgfast's."""
    side = round(PHOTO_SCALE * variant.size)
    jpegs = [[encode_photo(image, side) for image in batch] for batch in inputs]
    center, box_side = np.array([[side / 2, side / 2]]), np.array([0.9 * side])
    matrix = crop_matrices(center, box_side, variant.size)
    no_points = np.zeros((1, 2))

    def crop(jpeg: NDArray[np.uint8]) -> Images:
        decoded = np.asarray(cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)  # type: ignore[arg-type]
        if variant.method == "seed_style":
            return crop_square(decoded, no_points, center[0], float(box_side[0]), variant.size)[0].astype(np.uint8)
        return warp(decoded, matrix[0], variant.size)

    def predict_photos(number: int) -> NDArray[np.float64]:
        crops = np.stack([crop(jpeg) for jpeg in jpegs[number % len(jpegs)]])
        keypoints = predict(crops)[..., :2]
        return transform_points(keypoints, np.broadcast_to(np.linalg.inv(matrix), (len(keypoints), 3, 3)))

    return predict_photos


def encode_photo(image: Images, side: int) -> NDArray[np.uint8]:
    """Enlarge an image to side x side and encode it as JPEG."""
    large = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.imencode(".jpg", large[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1], np.uint8)
