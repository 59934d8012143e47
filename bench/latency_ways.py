"""The ways to run a network that `latency.py` compares, each an endless generator of batches: pictures in, keypoints out.

From uint8 RGB pictures in memory to keypoints in memory, normalising and decoding (in fp32) included, whatever the runtime. With
`end_to_end` from JPEG files' bytes and boxes to keypoints in the photographs' pixels. Every way has a process of its own (see
`contest`); when it starts it writes what it finds in the pictures, so that its keypoints can be compared. On a GPU a way works in
one stream, and CUDA events around a batch say what it took there, copies included.
What may enter: opening a network in a runtime and running it; no statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from contest import Batches, Made
from numpy.typing import NDArray
from seed_style import cut
from torch import Tensor

from hgfast import precision
from hgfast.checkpoints import load_model
from hgfast.geometry import move, square_matrices, warp
from hgfast.inference import keypoints_of, last_heatmaps
from hgfast.model import StackedHourglass
from hgfast.preprocessing import Preprocessing, apply, fold
from hgfast.runtimes import Artefact, Place
from hgfast.sidecar import KEYPOINTS

Pictures = NDArray[np.uint8]
Find = Callable[[Pictures], NDArray[Any]]
"""(n, S, S, 3) uint8 RGB -> keypoints (n, K, 3): x, y in input pixels, score."""

TORCH = ("seed_style", "channels_last", "autocast", "compile")
"""Ways to run a checkpoint in torch: as the seed does; with the weights too in channels_last memory; that in bf16, on a
GPU fp16; that compiled, on a GPU with CUDA graphs."""
LARGER = 2.8  # pixels of a photograph that one of the input shows, end to end
TURNS = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # steps along rows and columns: a picture seen four ways is four pictures


@dataclass(frozen=True, eq=False)
class LatencyWay:
    """A row. file: a checkpoint or an artefact. size: side of its input, pixels. work: has pictures.npy and gets the points."""

    way: str
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
        return f"{self.way} {self.precision} of {self.file.name}, {self.batch} at once{end}"

    @property
    def process(self) -> str:
        return self.name

    @property
    def points(self) -> Path:
        """Where it leaves its keypoints (P, K, 3) of all pictures."""
        return self.work / f"{self.way}-{self.precision}-{self.file.name}.npy"

    @property
    def cuda(self) -> bool:
        """Does it work on a GPU?"""
        return torch.cuda.is_available() and (self.runtime != "onnxruntime" or onnx_on_gpu()) and self.runtime != "openvino"

    @cached_property
    def stream(self) -> torch.cuda.Stream | None:
        """Where it works on a GPU, which is made when it is first asked for."""
        return torch.cuda.Stream() if self.cuda else None  # type: ignore[no-untyped-call]

    @property
    def place(self) -> Place:
        """Of an artefact."""
        stream = None if self.stream is None else self.stream.cuda_stream
        return Place(self.threads, stream=stream, bf16=self.precision == "bf16")

    def load(self) -> None:
        torch.set_num_threads(self.threads)
        if self.cuda:
            torch.zeros(1, device="cuda")

    def start(self) -> Batches:
        with torch.cuda.stream(self.stream):  # of None it makes nothing
            yield from self._batches()

    def _batches(self) -> Batches:
        find = FINDERS.get(self.way, find_artefact)(self)
        pictures = np.load(self.work / "pictures.npy")
        if not self.end_to_end:
            np.save(self.points, everything(find, pictures, self.batch))
        inputs = rotated(pictures, self.batch)
        whole = end_to_end(self, find, inputs) if self.end_to_end else None
        for number in count():
            work = partial(whole, number) if whole is not None else partial(find, inputs[number % len(inputs)])
            yield Made(self.batch, gpu_ms=gpu_ms(self.stream, work))


def onnx_on_gpu() -> bool:
    """Is this onnxruntime one for NVIDIA's GPUs?"""
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def gpu_ms(stream: torch.cuda.Stream | None, work: Callable[[], object]) -> float:
    """Do it, and say how many milliseconds the stream took, by CUDA events; 0 where there is none."""
    if stream is None:
        work()
        return 0.0
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record(stream)
    work()
    end.record(stream)
    end.synchronize()
    return float(begin.elapsed_time(end))


def everything(find: Find, pictures: Pictures, batch: int) -> NDArray[Any]:
    """The keypoints of all pictures, `batch` at once."""
    there = np.resize(np.arange(len(pictures)), -(-len(pictures) // batch) * batch).reshape(-1, batch)
    return np.concatenate([find(np.ascontiguousarray(pictures[rows])) for rows in there])[: len(pictures)]


def rotated(pictures: Pictures, batch: int) -> list[Pictures]:
    """Different batches, so that no way sees the same one twice in a row."""
    turned = np.concatenate([pictures[:, ::down, ::across] for down, across in TURNS])
    rows = [np.arange(first, first + batch) % len(turned) for first in range(0, len(turned), max(batch, len(turned) // 8))]
    return [np.ascontiguousarray(turned[one]) for one in rows]


def find_as_seed(way: LatencyWay) -> Find:
    """As the seed's test.py runs it: single precision, every stack's heatmaps stacked, no_grad, nothing fused. Weights are in
    NCHW memory, but pictures are NHWC and only their axes are swapped, so that torch computes in channels_last all the way."""
    model: Any = load_on(way).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    device, affine = next(model.parameters()).device, affine_of(model.meta.preprocessing)

    @torch.no_grad()
    def find(pictures: Pictures) -> NDArray[Any]:
        images = normalise(pictures, affine).to(device)
        return keypoints_of(model, last_heatmaps(model, images, way.flip_test)).cpu().numpy()

    return find


def find_in_torch(way: LatencyWay) -> Find:
    """As hgfast runs a checkpoint, and faster ways of it."""
    model: Any = load_on(way)
    device, affine = next(model.parameters()).device, affine_of(model.meta.preprocessing)
    amp = precision.resolve("auto", device) if way.way == "autocast" else "off"
    if way.way == "compile":
        model.compile(mode="reduce-overhead" if device.type == "cuda" else "default", dynamic=False)

    @torch.no_grad()
    def find(pictures: Pictures) -> NDArray[Any]:
        images = normalise(pictures, affine).to(device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), precision.autocast(amp, device):
            maps = last_heatmaps(model, images, way.flip_test)
        return keypoints_of(model, maps.float()).cpu().numpy()

    return find


def load_on(way: LatencyWay) -> StackedHourglass:
    """In channels_last memory."""
    return load_model(way.file, "cuda" if way.cuda else "cpu")


def find_artefact(way: LatencyWay) -> Find:
    """An ONNX, TorchScript or engine, by what hgfast.runtime uses."""
    runtime: Any = way.runtime
    artefact = Artefact(way.file, runtime, way.place)
    sidecar = artefact.sidecar
    if not sidecar.normalised:
        return lambda pictures: artefact(pictures)[KEYPOINTS]
    affine = affine_of(Preprocessing(sidecar.mean, sidecar.std))
    return lambda pictures: artefact(normalise(pictures, affine).contiguous().numpy())[KEYPOINTS]


FINDERS: dict[str, Callable[[LatencyWay], Find]] = {
    "seed_style": find_as_seed,
    "channels_last": find_in_torch,
    "autocast": find_in_torch,
    "compile": find_in_torch,
}


def affine_of(preprocessing: Preprocessing) -> NDArray[np.float32]:
    return fold(np.eye(3, 4, dtype=np.float32)[None], preprocessing)


def normalise(pictures: Pictures, affine: NDArray[np.float32]) -> Tensor:
    return apply(torch.from_numpy(pictures), torch.from_numpy(affine).expand(len(pictures), -1, -1))


def end_to_end(way: LatencyWay, find: Find, inputs: list[Pictures]) -> Callable[[int], NDArray[np.float64]]:
    """Decode JPEGs, cut the crops, find, and move the points back; the crop is the seed's own, or hgfast's."""
    side = round(LARGER * way.size)
    jpegs = [[encode(picture, side) for picture in batch] for batch in inputs]
    centre, length = np.array([[side / 2, side / 2]]), np.array([0.9 * side])
    matrix = square_matrices(centre, length, way.size)
    nowhere = np.zeros((1, 2))

    def crop(jpeg: NDArray[np.uint8]) -> Pictures:
        decoded = np.asarray(cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)  # type: ignore[arg-type]
        if way.way == "seed_style":
            return cut(decoded, nowhere, centre[0], float(length[0]), way.size)[0].astype(np.uint8)
        return warp(decoded, matrix[0], way.size)

    def whole(number: int) -> NDArray[np.float64]:
        crops = np.stack([crop(jpeg) for jpeg in jpegs[number % len(jpegs)]])
        found = find(crops)[..., :2]
        return move(found, np.broadcast_to(np.linalg.inv(matrix), (len(found), 3, 3)))

    return whole


def encode(picture: Pictures, side: int) -> NDArray[np.uint8]:
    """A picture enlarged, as a JPEG in memory."""
    large = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.imencode(".jpg", large[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1], np.uint8)
