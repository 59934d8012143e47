"""The DALI graph: read, decode, shrink, warp; and the iterator that turns its output into `Batch`.

One builder serves GPU ("mixed" decode, warp_affine) and CPU (warp_perspective, which does the same five times faster
there); both put (0, 0) on the outer corner of the first pixel. Colour and normalisation are one affine map of the whole
batch in torch, on the device.
What may enter: DALI. It is imported on use, so that the package works without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hgfast.batch import Batch
from hgfast.errors import HgfastError
from hgfast.geometry import GRAIN, regions
from hgfast.preprocessing import Preprocessing, apply, fold
from pipelines.plan import Plan, PlannedBatch

Warp = Literal["warp_affine", "warp_perspective"]


def import_dali() -> Any:
    """The nvidia.dali package, or one sentence on how to get it."""
    try:
        from nvidia import dali
        from nvidia.dali import fn, types  # noqa: F401  (submodules to be reachable as attributes)
    except ImportError as error:
        raise HgfastError(
            "NVIDIA DALI is not installed: pip install nvidia-dali-cuda130 (Linux only; it needs no GPU)"
        ) from error
    return dali


class DaliLoader:
    """Yields the batches of a `Plan`, decoded and warped by DALI.

    Args:
        plan: order, matrices and colours.
        device: where batches go; a CUDA device decodes and warps there.
        threads: DALI's worker threads.
        preprocessing: normalisation of the network.
        warp: the operator; by default the fastest of the device.
        prefetch: batches prepared ahead.
    """

    def __init__(
        self,
        plan: Plan,
        device: torch.device,
        threads: int,
        preprocessing: Preprocessing,
        *,
        warp: Warp | None = None,
        prefetch: int = 2,
    ) -> None:
        self.plan, self.device, self.preprocessing = plan, device, preprocessing
        self._schedule: Iterator[tuple[int, int]] = iter(())
        self._planned: deque[PlannedBatch] = deque()
        self._busy = False  # stays so after an error: DALI does not recover
        on_gpu = device.type == "cuda"
        self._pipeline = self._build(threads, warp or ("warp_affine" if on_gpu else "warp_perspective"), prefetch, on_gpu)

    def __len__(self) -> int:
        return self.plan.steps

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches `start`, start + 1, … of an epoch. Leaving early is fine: the next epoch starts afresh.

        Raises:
            HgfastError: a picture that cannot be read or decoded, by name. The loader is then unusable.
        """
        if self._busy:
            raise RuntimeError("the epoch before is still being read: exhaust or close its iterator first")
        self._busy = True
        self._schedule = iter([(epoch, step) for step in range(start, self.plan.steps)])
        self._planned.clear()
        try:
            for _ in range(start, self.plan.steps):
                (images,) = self._run()
                yield self._batch(images, self._planned.popleft())
            self._drain()
        except GeneratorExit:
            with suppress(HgfastError):  # a bad picture that nobody asked for any more
                self._drain()
            raise

    def _build(self, threads: int, warp: Warp, prefetch: int, on_gpu: bool) -> Any:
        dali = import_dali()
        fn, types, size, grain = dali.fn, dali.types, (self.plan.size, self.plan.size), float(GRAIN)

        @dali.pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
        def graph() -> Any:
            paths, matrix, low, high, ratio = fn.external_source(
                source=self._feed,
                num_outputs=5,
                batch=True,
                dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.FLOAT, types.FLOAT],
                ndim=[1, 2, 1, 1, 0],
            )
            # what hgfast.geometry.cut_and_shrink does; DALI's order is y, x
            files = fn.io.file.read(paths)
            limits = fn.cast(fn.peek_image_shape(files)[:2], dtype=types.FLOAT)
            start = dali.math.clamp(dali.math.floor(low), 0.0, limits - 1.0)
            end = dali.math.clamp(dali.math.ceil(high), start + 1.0, limits)
            images = fn.decoders.image_slice(
                files,
                device="mixed" if on_gpu else "cpu",
                start=fn.cast(start, dtype=types.INT32),
                end=fn.cast(end, dtype=types.INT32),
                axes=[0, 1],
                output_type=types.RGB,
                jpeg_fancy_upsampling=True,  # libjpeg's and OpenCV's chroma
            )
            begin, scale = start, fn.stack(1.0 / ratio, 1.0 / ratio)
            if ratio < 1.0:
                first = dali.math.max(0.0, dali.math.floor((start - low) * ratio + grain))
                last = dali.math.ceil((dali.math.min(high, end) - low) * ratio - grain)
                count = dali.math.max(1.0, last - first)
                begin = low + first / ratio
                images = fn.resize(
                    images,
                    roi_start=begin - start,
                    roi_end=begin - start + count / ratio,
                    size=count,
                    interp_type=types.INTERP_TRIANGULAR,
                    antialias=True,
                )
            matrix = fn.transforms.combine(
                fn.transforms.scale(scale=scale), fn.transforms.translation(offset=fn.stack(begin[1], begin[0])), matrix
            )
            if warp == "warp_affine":
                return fn.warp_affine(images, matrix=matrix, size=size, inverse_map=False, fill_value=0)
            return fn.experimental.warp_perspective(
                images,
                matrix=fn.cat(matrix, np.array([[0, 0, 1]], np.float32), axis=0),
                size=size,
                inverse_map=False,
                pixel_origin="corner",
                fill_value=0,
            )

        pipeline = graph(
            batch_size=self.plan.largest,
            num_threads=threads,
            device_id=(self.device.index or 0) if on_gpu else None,
            prefetch_queue_depth=prefetch,
        )
        pipeline.build()
        return pipeline

    def _feed(self) -> tuple[list[NDArray[np.uint8]] | NDArray[np.float32], ...]:
        """DALI asks for its next batch: paths as bytes, and of each sample the matrix's two rows and its region."""
        planned = self.plan.batch(*next(self._schedule))
        self._planned.append(planned)
        paths = [np.frombuffer(str(path).encode(), np.uint8) for path in self.plan.samples.paths[planned.index]]
        low, high, ratio = regions(planned.input_from_source, self.plan.size)
        rows = np.ascontiguousarray(planned.input_from_source[:, :2], np.float32)
        return paths, rows, np.ascontiguousarray(low[:, ::-1]), np.ascontiguousarray(high[:, ::-1]), ratio

    def _run(self) -> Any:
        try:
            return self._pipeline.run()
        except RuntimeError as error:
            raise HgfastError(self._blame(error)) from error

    def _blame(self, error: RuntimeError) -> str:
        """Name the pictures among those in flight that OpenCV cannot decode either; else DALI's own words."""
        paths = [str(path) for planned in self._planned for path in self.plan.samples.paths[planned.index]]
        bad = [path for path in paths if cv2.imread(path) is None]
        if bad:
            return f"{len(bad)} pictures cannot be decoded, the first {bad[0]}: replace them or take them out of the data set"
        return f"DALI failed: {' '.join(str(error).split())[:400]}"

    def _batch(self, output: Any, planned: PlannedBatch) -> Batch:
        from nvidia.dali.plugin.pytorch import feed_ndarray  # type: ignore[attr-defined]

        tensor = output.as_tensor()
        images = torch.empty(tensor.shape(), dtype=torch.uint8, device=self.device)
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        feed_ndarray(tensor, images, cuda_stream=stream)
        return Batch(
            images=apply(images, self._to_device(fold(planned.colour, self.preprocessing))),
            keypoints=self._to_device(planned.keypoints.astype(np.float32)),
            labelled=self._to_device(planned.labelled),
            index=planned.index,
            input_from_source=planned.input_from_source,
            total=planned.total,
        )

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _drain(self) -> None:
        """Let the pipeline run dry, so that the next epoch's first batch is its own."""
        self._schedule = iter(())
        with suppress(StopIteration):
            while True:
                self._run()
        self._pipeline.reset()
        self._busy = False
