"""The DALI graph: read, decode, shrink, warp; and the iterator that turns its output into `Batch`.

One builder serves GPU ("mixed" decode, warp_affine) and CPU (warp_perspective, which does the same five times faster
there); both put (0, 0) on the outer corner of the first pixel. Crops go to torch without a copy.
What may enter: DALI. It is imported on use, so that the package works without it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hgfast.batch import Batch
from hgfast.config import LoadingConfig
from hgfast.draw import content_of
from hgfast.errors import HgfastError
from hgfast.geometry import GRAIN, regions
from hgfast.picture_size import PIXELS, PNG, check_size
from hgfast.preprocessing import Preprocessing
from pipelines.loading import PlannedLoader
from pipelines.plan import Plan, PlannedBatch

Warp = Literal["warp_affine", "warp_perspective"]


def import_dali() -> Any:
    """The nvidia.dali package, or one sentence on how to get it."""
    try:
        from nvidia import dali
        from nvidia.dali import fn, types  # noqa: F401  (submodules to be reachable as attributes)
    except ImportError as error:
        raise HgfastError(
            "NVIDIA DALI is not installed: pip install nvidia-dali-cuda130 (Linux only; it needs no GPU), or use --loader torch"
        ) from error
    return dali


class DaliLoader(PlannedLoader):
    """Yields the batches of a `Plan`, decoded and warped by DALI.

    Args:
        plan: order, matrices and colours.
        device: where batches go; a CUDA device decodes and warps there.
        threads: DALI's worker threads.
        preprocessing: normalisation of the network.
        options: prefetch depth, hardware decoder, pictures kept in memory, patience with folders that are gone.
        warp: the operator; by default the fastest of the device.
    """

    def __init__(
        self,
        plan: Plan,
        device: torch.device,
        threads: int,
        preprocessing: Preprocessing,
        *,
        options: LoadingConfig | None = None,
        warp: Warp | None = None,
    ) -> None:
        super().__init__(plan, device, preprocessing, options)
        self._threads = threads
        self._warp: Warp = warp or ("warp_affine" if device.type == "cuda" else "warp_perspective")
        self._schedule: Iterator[tuple[int, int]] = iter(())
        self._planned: deque[PlannedBatch] = deque()
        self._busy = False
        self._kept: dict[str, NDArray[np.uint8]] = {}
        self._looked_at: dict[str, bool] = {}  # whether DALI may have the file
        self._room = int(self._options.preload_gb * 1e9)
        self._pipeline = self._build()

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches `start`, start + 1, … of an epoch. Leaving early is fine: the next epoch starts afresh.

        A picture that cannot be decoded is named on stderr, and another takes its place.

        Raises:
            HgfastError: no picture is left, their folder is gone, or DALI fails for another reason.
        """
        if self._busy:
            raise RuntimeError("the epoch before is still being read: exhaust or close its iterator first")
        self._busy = True
        try:
            self._begin(epoch, start)
            for step in range(start, self.plan.steps):
                images = self._run(epoch, step)
                yield self._finish(images, self._planned.popleft())
        finally:
            self._drain()
            self._busy = False

    def _begin(self, epoch: int, start: int) -> None:
        self._schedule = iter([(epoch, step) for step in range(start, self.plan.steps)])
        self._planned.clear()

    def _build(self) -> Any:
        dali = import_dali()
        warp, options, on_gpu = self._warp, self._options, self.device.type == "cuda"
        fn, types, size, grain = dali.fn, dali.types, (self.plan.size, self.plan.size), float(GRAIN)

        @dali.pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
        def graph() -> Any:
            files, matrix, low, high, ratio = fn.external_source(
                source=self._feed,
                num_outputs=5,
                batch=True,
                dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.FLOAT, types.FLOAT],
                ndim=[1, 2, 1, 1, 0],
            )
            # what hgfast.geometry.cut_and_shrink does; DALI's order is y, x
            files = files if options.preload_gb else fn.io.file.read(files)
            limits = fn.cast(fn.peek_image_shape(files)[:2], dtype=types.FLOAT)
            if limits[0] * limits[1] > float(PIXELS):
                files = types.Constant(np.zeros(1, np.uint8))  # which the decoder refuses, before it makes room
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
                hw_decoder_load=options.hw_decoder_load,
            )
            begin, scale = start, fn.stack(1.0 / ratio, 1.0 / ratio)
            if ratio < 1.0:
                first = dali.math.floor((start - low) * ratio + grain)
                first = first + (low < end) * (dali.math.max(0.0, first) - first)
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
            num_threads=self._threads,
            device_id=_device_id(self.device),
            prefetch_queue_depth=options.prefetch,
            exec_dynamic=True,  # outputs own their memory, so that torch may keep it
        )
        pipeline.build()
        return pipeline

    def _feed(self) -> tuple[list[NDArray[np.uint8]] | NDArray[np.float32], ...]:
        """DALI asks for its next batch: files, and of each sample the matrix's two rows and its region."""
        planned = self.plan.batch(*next(self._schedule))
        self._planned.append(planned)
        files = [self._file(str(path)) for path in self.plan.samples.paths[planned.index]]
        rows = np.ascontiguousarray(planned.input_from_source[:, :2], np.float32)
        low, high, ratio = regions(planned.input_from_source, self.plan.size)
        return files, rows, np.ascontiguousarray(low[:, ::-1]), np.ascontiguousarray(high[:, ::-1]), ratio

    def _file(self, path: str) -> NDArray[np.uint8]:
        """What the graph wants of a file: its path as bytes or, where pictures are kept in memory, its content."""
        if path not in self._looked_at:
            self._looked_at[path] = not png_complaint(path)
        if not self._looked_at[path]:
            path = os.devnull  # which the decoder refuses, so that it is found and named like any bad file
        if not self._options.preload_gb:
            return np.frombuffer(os.fsencode(path), np.uint8)
        if path in self._kept:
            return self._kept[path]
        try:
            content = np.fromfile(path, np.uint8)
        except OSError:
            return np.zeros(1, np.uint8)  # which the decoder refuses, so that it is found and named like any bad file
        if not content.nbytes:
            return np.zeros(1, np.uint8)
        if content.nbytes <= self._room:
            self._kept[path] = content
            self._room -= content.nbytes
        return content

    def _run(self, epoch: int, step: int) -> torch.Tensor:
        """The crops of a batch (n, S, S, 3) uint8 on the device, whatever it takes: DALI does not recover from a bad file.

        A failure without a bad file to be found is taken for one of the moment, once.
        """
        unexplained = False
        while True:
            try:
                stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
                (crops,) = self._pipeline.run(stream)
                return torch.utils.dlpack.from_dlpack(crops.as_tensor())
            except RuntimeError as error:
                bad = self._undecodable()
                if not bad and unexplained:
                    raise HgfastError(f"DALI failed: {' '.join(str(error).split())[:400]}") from error
                unexplained = not bad
                if bad and not self._waited_for(bad):
                    self._leave_out(bad)
                self._pipeline = self._build()
                self._begin(epoch, step)

    def _undecodable(self) -> dict[int, str]:
        """Rows among those in flight that DALI cannot decode on their own, and why."""
        rows = {int(row) for planned in self._planned for row in planned.index}
        paths = {row: str(self.plan.samples.paths[row]) for row in sorted(rows)}
        reasons = undecodable(list(paths.values()), self.device)
        return {row: reasons[path] for row, path in paths.items() if path in reasons}

    def _drain(self) -> None:
        """Let the pipeline run dry, so that the next epoch's first batch is its own."""
        self._schedule = iter(())
        try:
            while True:
                self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
        except RuntimeError:  # a bad picture that nobody asked for any more
            self._pipeline = self._build()
        self._planned.clear()


def undecodable(paths: Sequence[str], device: torch.device) -> dict[str, str]:
    """Which of these pictures DALI cannot decode, each with a sentence on what is wrong. One at a time: for suspects."""
    dali = import_dali()
    waiting: deque[str] = deque()

    @dali.pipeline_def(batch_size=1, num_threads=1, prefetch_queue_depth=1, device_id=_device_id(device))  # type: ignore[untyped-decorator]
    def graph() -> Any:
        path = dali.fn.external_source(
            source=lambda: [np.frombuffer(os.fsencode(waiting.popleft()), np.uint8)], dtype=dali.types.UINT8
        )
        return dali.fn.decoders.image(
            dali.fn.io.file.read(path), device="mixed" if device.type == "cuda" else "cpu", output_type=dali.types.RGB
        )

    reasons: dict[str, str] = {}
    pipeline = graph()
    for path in paths:
        if complaint := size_complaint(path):
            reasons[path] = complaint
            continue
        waiting.append(path)
        try:
            pipeline.run()
        except RuntimeError:
            reasons[path] = what_is_wrong(path)
            waiting.clear()
            pipeline = graph()
    return reasons


def png_complaint(path: str) -> str:
    """What is wrong with a PNG whose parts claim more than there is, for which DALI would make room; nothing for other files."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        head = os.read(file, len(PNG))
    except OSError:
        return ""
    finally:
        os.close(file)
    return size_complaint(path) if head == PNG else ""


def size_complaint(path: str) -> str:
    """What is wrong with a file that is none to be opened, or whose header claims too much; nothing for others."""
    try:
        check_size(content_of(path).data, path)
    except HgfastError as error:
        return str(error)
    return ""


def what_is_wrong(path: str) -> str:
    """A sentence on a file that cannot be decoded."""
    try:
        empty = Path(path).stat().st_size == 0
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return f"{path} is empty" if empty else f"{path} cannot be decoded: it is no picture, or broken"


def _device_id(device: torch.device) -> int | None:
    return (device.index or 0) if device.type == "cuda" else None
