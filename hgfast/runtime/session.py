"""Run an exported network in an application, without torch: images in, keypoints in image pixels out.

from hgfast.runtime import Session

with Session("best.fp32.onnx") as session:
    people = session(image, boxes=[(120, 40, 300, 420)], padding=1.25)
    print(people.to_json())
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hgfast.errors import HgfastError
from hgfast.geometry import crop_matrices, transform_points, warp
from hgfast.runtime.backends import Artifact, DeviceOptions, RuntimeName
from hgfast.runtime.boxes import crop_image, crop_squares, squares_to_boxes
from hgfast.runtime.results import Poses
from hgfast.runtime.sidecar import HEATMAPS, KEYPOINTS, Sidecar

Image = NDArray[np.uint8]


class Session:
    """An exported network, warmed up. Threads may share a session: they crop in parallel and take turns in the network. A process
    may have several sessions. A pickled session, such as an argument of a process that multiprocessing spawns, is opened again
    from its file by the process that reads it.

    Args:
        path: an exported ONNX, TorchScript or TensorRT file, with its sidecar in the same folder.
        runtime: onnxruntime, openvino, torch, tensorrt or tensorrt_rtx; None takes the first that is installed and runs the file.
        threads: CPU threads; None is one per core.
        bgr: images have OpenCV's channel order, blue first.
        device: index of the GPU, for runtimes that use one.
        stream: handle of a CUDA stream of that GPU, which must outlive the session; None creates one. Results are on the host and
            complete when a call returns.
        bf16: let OpenVINO compute fp32 operations in bf16, if the CPU supports it; faster, but some keypoints change.

    Raises:
        HgfastError: the file or its sidecar is missing, broken or of another version, the two do not belong together, the runtime
            or the GPU is missing, or the network has no keypoints output.
    """

    def __init__(
        self,
        path: str | Path,
        runtime: RuntimeName | None = None,
        *,
        threads: int | None = None,
        bgr: bool = False,
        device: int = 0,
        stream: int | None = None,
        bf16: bool = False,
    ) -> None:
        self._artifact: Artifact | None = Artifact(Path(path), runtime, DeviceOptions(threads, device, stream, bf16))
        self.sidecar: Sidecar = self._artifact.sidecar
        self.skeleton, self.heatmap_kind = self.sidecar.skeleton, self.sidecar.heatmap_kind
        self.result_offset, self.runtime = self.sidecar.result_offset, self._artifact.runtime
        self._bgr, self._lock = bgr, threading.Lock()
        options: dict[str, Any] = {"threads": threads, "bgr": bgr, "device": device, "stream": stream, "bf16": bf16}
        self._reopen = functools.partial(type(self), Path(path).absolute(), self.runtime, **options)
        size, batch = self.sidecar.input_size, self.sidecar.batch
        try:
            if KEYPOINTS not in [port.name for port in self.sidecar.outputs]:
                raise HgfastError(f"{path} gives no keypoints: export it with --outputs keypoints")
            for count in sorted({batch.min, batch.opt} if self.sidecar.builder else {batch.min}):
                self._run_network(np.zeros((count, size, size, 3), np.uint8))
        except BaseException:
            self.close()
            raise

    @overload
    def __call__(self, image: Image, boxes: ArrayLike | None = None, *, padding: float = 1.0) -> Poses: ...

    @overload
    def __call__(
        self, image: Sequence[Image], boxes: Sequence[ArrayLike | None] | None = None, *, padding: float = 1.0
    ) -> list[Poses]: ...

    def __call__(self, image: Any, boxes: Any = None, *, padding: float = 1.0) -> Poses | list[Poses]:
        """Predict the keypoints of one image or of each image in a list.

        Args:
            image: (H, W, 3) uint8 RGB (BGR with `bgr`), gray (H, W), or (H, W, 4), whose alpha channel is ignored; or a PIL
                image, which is rotated by its EXIF orientation. Several images are a list or a tuple.
            boxes: (P, 4) x, y, width, height in pixels, one per person; None: the whole image. For a list of images, a list of
                boxes. Crops are split into batches that the network accepts.
            padding: side of the square crop divided by the longer side of its box; 1.25 for tight boxes. A whole image is not
                padded.

        Raises:
            HgfastError: an image has another shape or type (a tensor, a file name, None, floating point), a box is not finite,
                has no area or lies outside, or the session is closed.
        """
        if not isinstance(image, (list, tuple)):
            return self._predict_images([image], [boxes], padding)[0]
        images = list(image)
        boxes_per_image = [None] * len(images) if boxes is None else list(boxes)
        if len(boxes_per_image) != len(images):
            raise HgfastError(f"there are {len(images)} images and boxes for {len(boxes_per_image)}: give one entry per image")
        return self._predict_images(images, boxes_per_image, padding)

    def predict_crops(
        self, image: Image, boxes: ArrayLike | None = None, padding: float = 1.0
    ) -> tuple[Poses, NDArray[np.uint8], NDArray[np.float32] | None]:
        """Like a call with one image, but also return the crops (P, S, S, 3) and, if the network has that output, the heatmaps
        (P, K, S / stride, S / stride)."""
        rgb = self._to_rgb(image)
        center, side = crop_squares(rgb, boxes, padding)
        crops, matrices = crop_image(rgb, center, side, self.sidecar.input_size)
        outputs = self._run_network(crops)
        return self._to_poses(outputs[KEYPOINTS], matrices, squares_to_boxes(center, side)), crops, outputs.get(HEATMAPS)

    def close(self) -> None:
        """Free the resources of the runtime. Repeated calls have no effect."""
        artifact, self._artifact = self._artifact, None
        if artifact is not None:
            artifact.close()

    def __reduce__(self) -> tuple[Callable[[], Session], tuple[()]]:
        if self._artifact is None:
            raise HgfastError("session is closed; create a new one")
        if self._reopen.keywords["stream"] is not None:
            raise HgfastError("a session with a CUDA stream cannot be pickled, as a stream belongs to its process")
        return self._reopen, ()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _predict_images(self, images: Sequence[Any], boxes: Sequence[Any], padding: float) -> list[Poses]:
        """Predict the people in each image. Cropping and inference proceed batch by batch, so that memory use stays constant."""
        if not 0 < padding < float("inf"):
            raise HgfastError(f"the padding {padding:g} must be above 0")
        rgb_images = [self._to_rgb(image) for image in images]
        squares = [crop_squares(rgb, boxes_per_image, padding) for rgb, boxes_per_image in zip(rgb_images, boxes)]
        size, max_batch = self.sidecar.input_size, self.sidecar.batch.max
        all_matrices = [crop_matrices(center, side, size) for center, side in squares]
        crops = [(rgb, matrix) for rgb, matrices in zip(rgb_images, all_matrices) for matrix in matrices]
        outputs = [self._run_network(np.empty((0, size, size, 3), np.uint8))[KEYPOINTS]]
        for start in range(0, len(crops), max_batch):
            batch = np.stack([warp(rgb, matrix, size) for rgb, matrix in crops[start : start + max_batch]])
            outputs.append(self._run_network(batch)[KEYPOINTS])
        ends = np.cumsum([len(matrices) for matrices in all_matrices])
        results = zip(np.split(np.concatenate(outputs), ends[:-1]), all_matrices, squares)
        return [self._to_poses(points, matrices, squares_to_boxes(*square)) for points, matrices, square in results]

    def _to_poses(self, keypoints: NDArray[np.float32], matrices: NDArray[np.float64], squares: NDArray[np.float64]) -> Poses:
        """Convert keypoints (P, K, 3) from input pixels to source pixels."""
        points = transform_points(keypoints[..., :2].astype(np.float64), np.linalg.inv(matrices)) + self.result_offset
        return Poses(points, keypoints[..., 2].astype(np.float64), squares, self.skeleton)

    def _run_network(self, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Run the network on any number of crops (n, S, S, 3) RGB."""
        artifact = self._artifact
        if artifact is None:
            raise HgfastError("session is closed; create a new one")
        if not len(crops):
            shapes: dict[str, Any] = {port.name: port.shape[1:] for port in self.sidecar.outputs}
            return {name: np.empty((0, *shape), np.float32) for name, shape in shapes.items()}
        images: NDArray[Any] = crops
        if self.sidecar.normalized:
            mean, std = (np.array(values, np.float32) for values in (self.sidecar.mean, self.sidecar.std))
            images = np.ascontiguousarray(((crops.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2))
        with self._lock:
            return artifact.all(images)

    def _to_rgb(self, image: Any) -> Image:
        """Convert an image that a call accepts to (H, W, 3) RGB."""
        library = type(image).__module__.partition(".")[0]
        if library == "PIL":
            from PIL import ImageOps

            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
        if not isinstance(image, np.ndarray):
            raise HgfastError(_describe_wrong_image(image, library))
        rgb = image[..., None] if image.ndim == 2 else image
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] not in (1, 3, 4) or not rgb.size:
            advice = ""
            if rgb.dtype.kind == "f":
                advice = ": scale its values to 0 to 255 and convert it with .astype(numpy.uint8)"
            elif rgb.ndim == 4:
                advice = ": give several images as a list"
            elif rgb.ndim == 3 and rgb.shape[0] in (1, 3):
                advice = ": move its channels to the end with .transpose(1, 2, 0)"
            raise HgfastError(f"an image must be (H, W, 3), (H, W) or (H, W, 4) uint8, not {image.shape} {rgb.dtype}{advice}")
        if rgb.shape[2] == 1:
            return np.repeat(rgb, 3, axis=2)
        return rgb[..., 2::-1] if self._bgr else rgb[..., :3]


def _describe_wrong_image(image: Any, library: str) -> str:
    """Return the sentence for a value that is no array and no PIL image."""
    if image is None:
        return "there is no image (None): cv2.imread returns None for a file that it cannot read"
    if isinstance(image, (str, bytes, Path)):
        return f"{image!r} is a file name, not an image: read it first, for instance with hgfast.visualization.draw.read_image"
    if library == "torch":
        return (
            "an image is a torch tensor: give an array of uint8 (H, W, 3), for a tensor (3, H, W) from 0 to 1 "
            "(image * 255).byte().permute(1, 2, 0).cpu().numpy()"
        )
    return f"an image must be a numpy array of uint8 (H, W, 3) or a PIL image, not {type(image).__name__}"
