"""An exported network in somebody's application: pictures in, keypoints in the pictures' own pixels out. No torch.

    from hgfast.runtime import Session

    with Session("best.fp32.onnx") as session:
        people = session(image, boxes=[(120, 40, 300, 420)], padding=1.25)
        print(people.to_json())

What may enter: from pictures and boxes to what an artefact takes, and back. What runs it is `hgfast.runtimes`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hgfast.boxes import as_boxes, squares
from hgfast.errors import HgfastError
from hgfast.geometry import move, square_matrices, warp
from hgfast.poses import Poses
from hgfast.runtimes import Artefact, Place, Runtime
from hgfast.sidecar import HEATMAPS, KEYPOINTS, Sidecar
from hgfast.skeletons import Skeleton

Picture = NDArray[np.uint8]


class Session:
    """An exported network, warmed up. `session(image)` may be called from several threads: they cut their crops at the same time
    and take turns in the network. Several sessions may live in one process.

    Args:
        path: an ONNX, TorchScript or engine of export/, its sidecar beside it.
        runtime: onnxruntime, openvino, torch, tensorrt or tensorrt_rtx; None is the first that is installed and runs the file.
        threads: of a CPU; None is one a core.
        bgr: pictures come in OpenCV's order, blue first.
        device: the number of the GPU, for what runs on one.
        stream: the handle of a CUDA stream of that GPU to work in, which must outlive the session; None is one of its own. What
            a call gives is on the host and complete when it returns.
        bf16: let OpenVINO compute what is fp32 in bf16, where the CPU has it: twice as fast, and some keypoints move.

    Raises:
        HgfastError: a file or its sidecar missing, broken, not belonging together or built by another version; a runtime or a
            GPU that is not there; a network that gives no keypoints.
    """

    def __init__(
        self,
        path: str | Path,
        runtime: Runtime | None = None,
        *,
        threads: int | None = None,
        bgr: bool = False,
        device: int = 0,
        stream: int | None = None,
        bf16: bool = False,
    ) -> None:
        self._artefact: Artefact | None = Artefact(Path(path), runtime, Place(threads, device, stream, bf16))
        self.sidecar: Sidecar = self._artefact.sidecar
        self.runtime = self._artefact.runtime
        self._bgr, self._turn = bgr, threading.Lock()
        if KEYPOINTS not in [port.name for port in self.sidecar.outputs]:
            self.close()
            raise HgfastError(f"{path} gives no keypoints: export it with --outputs keypoints")
        size, batch = self.sidecar.input_size, self.sidecar.batch
        for number in sorted({batch.min, batch.opt} if self.sidecar.builder else {batch.min}):
            self._run(np.zeros((number, size, size, 3), np.uint8))

    @property
    def skeleton(self) -> Skeleton:
        return self.sidecar.skeleton

    @overload
    def __call__(self, image: Picture, boxes: ArrayLike | None = None, *, padding: float = 1.0) -> Poses: ...

    @overload
    def __call__(
        self, image: Sequence[Picture], boxes: Sequence[ArrayLike | None] | None = None, *, padding: float = 1.0
    ) -> list[Poses]: ...

    def __call__(self, image: Any, boxes: Any = None, *, padding: float = 1.0) -> Poses | list[Poses]:
        """The keypoints of a picture, or of each of a list of pictures.

        Args:
            image: (H, W, 3) uint8 RGB (BGR with `bgr`), or grey (H, W), or with transparency (H, W, 4), which is left out.
            boxes: (P, 4) x, y, width, height in pixels, one a person; None: the whole picture. For a list of pictures a list of
                these. More than the network takes at once go in parts.
            padding: the side of the square that the network sees over the longer side of its box; 1.25 for tight boxes. A
                whole picture is not padded.

        Raises:
            HgfastError: no such picture, a box that is not finite, has no area or lies outside, or a closed session.
        """
        if isinstance(image, np.ndarray):
            return self._all([image], [boxes], padding)[0]
        images = list(image)
        given = [None] * len(images) if boxes is None else list(boxes)
        if len(given) != len(images):
            raise HgfastError(f"there are {len(images)} pictures and boxes for {len(given)}: give one entry for each")
        return self._all(images, given, padding)

    def look(
        self, image: Picture, boxes: ArrayLike | None = None, padding: float = 1.0
    ) -> tuple[Poses, NDArray[np.uint8], NDArray[np.float32] | None]:
        """As a call with one picture, and also the crops (P, S, S, 3) that went in and, if the network gives them, their
        heatmaps (P, K, S / 4, S / 4)."""
        picture = self._picture(image)
        matrices, crops, sides = self._cut(picture, boxes, padding)
        found = self._run(crops) if len(crops) else {KEYPOINTS: self._none()}
        return self._poses(found[KEYPOINTS], matrices, sides), crops, found.get(HEATMAPS)

    def close(self) -> None:
        """Give back what the runtime holds. Closing twice does no harm."""
        artefact, self._artefact = self._artefact, None
        if artefact is not None:
            artefact.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _all(self, images: Sequence[Any], boxes: Sequence[Any], padding: float) -> list[Poses]:
        """Every picture's people. Crops are cut and run in the parts that the network takes, so that memory stays flat."""
        if not 0 < padding < float("inf"):
            raise HgfastError(f"the padding {padding:g} must be above 0")
        pictures = [self._picture(image) for image in images]
        cuts = [squares(picture, given, padding) for picture, given in zip(pictures, boxes)]
        jobs = [(number, person) for number, (centre, _) in enumerate(cuts) for person in range(len(centre))]
        size = self.sidecar.input_size
        every = [square_matrices(centre, side, size) for centre, side in cuts]
        found = [self._none()]
        most = self.sidecar.batch.max
        for start in range(0, len(jobs), most):
            part = jobs[start : start + most]
            found.append(self._run(np.stack([warp(pictures[n], every[n][p], size) for n, p in part]))[KEYPOINTS])
        keypoints, ends = np.concatenate(found), np.cumsum([len(matrices) for matrices in every])
        parts = zip(np.split(keypoints, ends[:-1]), every, cuts)
        return [self._poses(points, matrices, as_boxes(*cut)) for points, matrices, cut in parts]

    def _cut(self, picture: Picture, boxes: ArrayLike | None, padding: float) -> tuple[Any, NDArray[np.uint8], Any]:
        centre, side = squares(picture, boxes, padding)
        size = self.sidecar.input_size
        matrices = square_matrices(centre, side, size)
        crops = [warp(picture, matrix, size) for matrix in matrices]
        return matrices, np.stack(crops) if crops else np.empty((0, size, size, 3), np.uint8), as_boxes(centre, side)

    def _none(self) -> NDArray[np.float32]:
        return np.empty((0, len(self.skeleton.joints), 3), np.float32)

    def _poses(self, found: NDArray[np.float32], matrices: NDArray[np.float64], sides: NDArray[np.float64]) -> Poses:
        """Keypoints (P, K, 3) in input pixels, back in the source."""
        points = move(found[..., :2].astype(np.float64), np.linalg.inv(matrices)) + self.sidecar.shift
        return Poses(points, found[..., 2].astype(np.float64), sides, self.skeleton)

    def _run(self, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """What the network says of any number of crops (n, S, S, 3) RGB but none."""
        artefact = self._artefact
        if artefact is None:
            raise HgfastError("this session is closed: open another")
        images: NDArray[Any] = crops
        if self.sidecar.normalised:
            mean, std = (np.array(values, np.float32) for values in (self.sidecar.mean, self.sidecar.std))
            images = np.ascontiguousarray(((crops.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2))
        with self._turn:
            return artefact.all(images)

    def _picture(self, image: Any) -> Picture:
        """Any picture that a call takes as (H, W, 3) RGB."""
        picture = np.asarray(image)
        if picture.ndim == 2:
            picture = picture[..., None]
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3, 4) or not picture.size:
            raise HgfastError(f"a picture is (H, W, 3) uint8, or (H, W) or (H, W, 4), not {np.shape(image)} {picture.dtype}")
        if picture.shape[2] == 1:
            return np.repeat(picture, 3, axis=2)
        return picture[..., 2::-1] if self._bgr else picture[..., :3]
