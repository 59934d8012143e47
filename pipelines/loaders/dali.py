"""The DALI loader: a graph that reads, decodes, downscales and warps, and an iterator that turns its output into `Batch`.

One graph serves GPU ("mixed" decoding of whole images, warp_affine) and CPU (decoding of the region only, and warp_perspective,
five times faster than warp_affine there); both warps put (0, 0) on the outer corner of the first pixel. Crops go to torch without
a copy. DALI is imported on use, so that the package works without it.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hgfast.config import LoadingConfig
from hgfast.errors import HgfastError, one_line
from hgfast.fileio.image_format import dali_problem, needs_whole_file
from hgfast.fileio.image_header import HEADER_BYTES, MAX_PIXELS, check_image_size
from hgfast.geometry import EPSILON, crop_regions
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan, PlannedBatch
from hgfast.pipelines.loaders.base import PlannedLoader
from hgfast.training.batch import Batch
from hgfast.visualization.draw import read_image, read_image_bytes

Decode = Literal["image", "region"]
Warp = Literal["warp_affine", "warp_perspective"]
DEFAULT_HW_DECODER_LOAD = 0.65
"""DALI's default."""


def import_dali() -> Any:
    """Return the nvidia.dali package. Raises `HgfastError` that says how to install it, or why it cannot be imported."""
    if sys.flags.optimize > 1:
        raise HgfastError("NVIDIA DALI does not run with PYTHONOPTIMIZE=2 or python -OO: unset it, or use --loader opencv")
    try:
        from nvidia import dali
        from nvidia.dali import fn, types  # noqa: F401  (submodules to be reachable as attributes)
    except ImportError as error:
        raise HgfastError(
            "NVIDIA DALI is not installed: pip install nvidia-dali-cuda130 (Linux only; it needs no GPU), or use --loader opencv"
        ) from error
    return dali


class DaliLoader(PlannedLoader):
    """Yields the batches of a `BatchPlan`, decoded and warped by DALI on `device`, with `threads` worker threads.

    decode: whether whole images or only the regions of the crops are decoded, with the same result; by default whole images on a
    GPU, where nvImageCodec 0.9.0 crashes when it decodes a region of a JPEG, and regions on a CPU, where that is faster.
    warp: the warp operator, by default the fastest of the device.
    """

    def __init__(
        self,
        plan: BatchPlan,
        device: torch.device,
        threads: int,
        normalization: Normalization,
        *,
        options: LoadingConfig | None = None,
        decode: Decode | None = None,
        warp: Warp | None = None,
    ) -> None:
        super().__init__(plan, device, normalization, options)
        self._threads = threads
        self._decode: Decode = decode or ("image" if device.type == "cuda" else "region")
        self._warp: Warp = warp or ("warp_affine" if device.type == "cuda" else "warp_perspective")
        self._schedule: Iterator[tuple[int, int]] = iter(())
        self._in_flight: deque[PlannedBatch] = deque()
        self._busy = False
        self._file_cache: dict[str, NDArray[np.uint8]] = {}
        self._is_safe: dict[str, bool] = {}  # whether DALI may open the file
        self._cache_bytes_left = int(self._loading.preload_gb * 1e9)
        self._pipeline: Any = self._build()

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        if self._busy:
            raise RuntimeError("the previous epoch is still being read: exhaust or close its iterator first")
        self._busy = True
        try:
            if self._pipeline is None:
                self._pipeline = self._build()
            self._start_epoch(epoch, start)
            for step in range(start, self.plan.steps):
                images = self._run(epoch, step)
                yield self._make_batch(images, self._in_flight.popleft())
        finally:
            self._drain()
            self._busy = False

    def _start_epoch(self, epoch: int, start: int) -> None:
        self._schedule = iter([(epoch, step) for step in range(start, self.plan.steps)])
        self._in_flight.clear()

    def _build(self) -> Any:
        dali = import_dali()
        decode, warp, options, decoding = self._decode, self._warp, self._loading, decoder_arguments(self.device, self._loading)
        fn, types, size, epsilon = dali.fn, dali.types, (self.plan.input_size, self.plan.input_size), float(EPSILON)

        @dali.pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
        def graph() -> Any:
            files, matrix, low, high, ratio = fn.external_source(
                source=self._next_inputs,
                num_outputs=5,
                batch=True,
                dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.FLOAT, types.FLOAT],
                ndim=[1, 2, 1, 1, 0],
            )
            # as hgfast.geometry.crop_and_downscale; DALI's order is y, x
            files = files if options.preload_gb else fn.io.file.read(files)
            limits = fn.cast(fn.peek_image_shape(files)[:2], dtype=types.FLOAT)
            if limits[0] * limits[1] > float(MAX_PIXELS):
                files = types.Constant(np.zeros(1, np.uint8))  # which the decoder refuses, before it allocates memory
            start = dali.math.clamp(dali.math.floor(low), 0.0, limits - 1.0)
            end = dali.math.clamp(dali.math.ceil(high), start + 1.0, limits)
            region = {"start": fn.cast(start, dtype=types.INT32), "end": fn.cast(end, dtype=types.INT32), "axes": [0, 1]}
            if decode == "region":
                images = fn.decoders.image_slice(files, **region, **decoding)
            else:  # the resize's region of interest would not do: its filter also reads pixels outside
                images = fn.slice(fn.decoders.image(files, **decoding), **region)
            begin, scale = start, fn.stack(1.0 / ratio, 1.0 / ratio)
            if ratio < 1.0:
                first = dali.math.floor((start - low) * ratio + epsilon)
                first = first + (low < end) * (dali.math.max(0.0, first) - first)
                last = dali.math.ceil((dali.math.min(high, end) - low) * ratio - epsilon)
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
            batch_size=self.plan.max_local_batch,
            num_threads=self._threads,
            device_id=_device_id(self.device),
            prefetch_queue_depth=options.prefetch,
            exec_dynamic=True,  # outputs own their memory, so that torch may hold it
        )
        pipeline.build()
        return pipeline

    def _next_inputs(self) -> tuple[list[NDArray[np.uint8]] | NDArray[np.float32], ...]:
        """Return DALI's next inputs: files, and of each sample the first two rows of its matrix and its region.

        DALI calls this in the thread that asks for a batch, two batches ahead. It takes 0.6 ms for 32 samples of 130 000 on one
        core of an Intel Xeon, and 30 ms once an epoch for the permutation, so that a thread of its own would not pay.
        """
        planned = self.plan.batch(*next(self._schedule))
        self._in_flight.append(planned)
        files = [self._file_input(str(path)) for path in self.plan.samples.paths[planned.index]]
        rows = np.ascontiguousarray(planned.input_from_source[:, :2], np.float32)
        low, high, ratio = crop_regions(planned.input_from_source, self.plan.input_size)
        return files, rows, np.ascontiguousarray(low[:, ::-1]), np.ascontiguousarray(high[:, ::-1]), ratio

    def _file_input(self, path: str) -> NDArray[np.uint8]:
        """Return the graph's input for a file: its path as bytes or, if images are held in memory, its content."""
        if path not in self._is_safe:
            self._is_safe[path] = not file_problem(path)
        if not self._is_safe[path]:
            path = os.devnull  # which the decoder refuses, so that the file is reported like any bad file
        if not self._loading.preload_gb:
            return np.frombuffer(os.fsencode(path), np.uint8)
        if path in self._file_cache:
            return self._file_cache[path]
        try:
            content = np.fromfile(path, np.uint8)
        except OSError:
            content = np.empty(0, np.uint8)
        if not content.nbytes:
            return np.zeros(1, np.uint8)  # which the decoder refuses, so that the file is reported like any bad file
        if content.nbytes <= self._cache_bytes_left:
            self._file_cache[path] = content
            self._cache_bytes_left -= content.nbytes
        return content

    def _run(self, epoch: int, step: int) -> torch.Tensor:
        """Return the crops (n, S, S, 3) uint8 of a batch on the device.

        DALI does not recover from a bad file: bad files are excluded and the pipeline is rebuilt. A failure without a bad file is
        retried once.
        """
        retried = False
        while True:
            try:
                stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
                (crops,) = self._pipeline.run(stream)
                return torch.utils.dlpack.from_dlpack(crops.as_tensor())
            except RuntimeError as error:
                check_gpu(self.device)
                bad = self._find_undecodable()
                if not bad and retried:
                    raise HgfastError(f"DALI failed: {' '.join(str(error).split())[:400]}") from error
                retried = not bad
                if bad and not self._wait_for_storage(bad):
                    self._exclude(bad)
                self._pipeline = self._build()
                self._start_epoch(epoch, step)

    def _find_undecodable(self) -> dict[int, str]:
        """Return the rows in flight that DALI cannot decode, with reasons."""
        rows = {int(row) for planned in self._in_flight for row in planned.index}
        paths = {row: str(self.plan.samples.paths[row]) for row in sorted(rows)}
        reasons = find_undecodable(list(paths.values()), self.device, self._loading)
        return {row: reasons[path] for row, path in paths.items() if path in reasons}

    def _drain(self) -> None:
        """Empty the pipeline, so that the next epoch starts with its own first batch."""
        self._schedule = iter(())
        try:
            while True:
                self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
        except RuntimeError:  # a bad image of a batch that is no longer needed, or a GPU that has failed
            self._pipeline = None
        self._in_flight.clear()


def decoder_arguments(device: torch.device, loading: LoadingConfig) -> dict[str, Any]:
    """Return the arguments that all of DALI's image decoders on `device` have in common."""
    return {
        "device": "mixed" if device.type == "cuda" else "cpu",
        "output_type": import_dali().types.RGB,
        "jpeg_fancy_upsampling": True,  # chroma upsampling of libjpeg and OpenCV
        "hw_decoder_load": hw_decoder_load(device, loading),
    }


def hw_decoder_load(device: torch.device, loading: LoadingConfig) -> float:
    """Return the fraction of the JPEGs that the GPU's hardware decoder gets, from 0 to 1.

    The default is 0 on compute capability 9.0 (Hopper), where nvJPEG's hardware decoder may overwrite memory that earlier work in
    the stream still uses; torchvision and torchcodec have had corrupted images from it.
    """
    if loading.hw_decoder_load is not None:
        return loading.hw_decoder_load
    is_hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
    return 0.0 if is_hopper else DEFAULT_HW_DECODER_LOAD


def find_undecodable(paths: Sequence[str], device: torch.device, loading: LoadingConfig | None = None) -> dict[str, str]:
    """Return the images that DALI cannot decode, with reasons. Decodes one at a time, so it is meant for few files."""
    dali, decoding = import_dali(), decoder_arguments(device, loading or LoadingConfig())
    waiting: deque[str] = deque()

    @dali.pipeline_def(batch_size=1, num_threads=1, prefetch_queue_depth=1, device_id=_device_id(device))  # type: ignore[untyped-decorator]
    def graph() -> Any:
        path = dali.fn.external_source(
            source=lambda: [np.frombuffer(os.fsencode(waiting.popleft()), np.uint8)], dtype=dali.types.UINT8
        )
        return dali.fn.decoders.image(dali.fn.io.file.read(path), **decoding)

    reasons: dict[str, str] = {}
    pipeline = graph()
    for path in paths:
        if error := file_problem(path):
            reasons[path] = error
            continue
        waiting.append(path)
        try:
            pipeline.run()
        except RuntimeError:
            reasons[path] = describe_decode_error(path)
            waiting.clear()
            pipeline = graph()
    return reasons


def file_problem(path: str) -> str:
    """Return why DALI must not decode a file, "" if it may: it would see another image than OpenCV, or allocate too much.

    Only the start of the file is read, but all of a PNG, a TIFF or a progressive JPEG, and no pixel is decoded.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        head = memoryview(os.read(file, HEADER_BYTES))
    except OSError:
        return ""
    finally:
        os.close(file)
    try:
        data = read_image_bytes(path).data if needs_whole_file(head) else head
        check_image_size(data, path)
    except HgfastError as error:
        return str(error)
    problem = dali_problem(data)
    return f"{path} {problem}" if problem else ""


def describe_decode_error(path: str) -> str:
    """Describe a file that DALI cannot decode."""
    try:
        if os.stat(path).st_size == 0:  # noqa: PTH116
            return f"{path} is empty"
        read_image(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    except HgfastError as error:
        return str(error)
    return f"{path} cannot be decoded by DALI, but by OpenCV: save it as PNG, or use --loader opencv"


def check_gpu(device: torch.device) -> None:
    """Raise `HgfastError` if CUDA has failed on a GPU. Every later call then fails too, so that no image could be decoded."""
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise HgfastError(f"the GPU failed ({one_line(error, 200)}): if it happens again, use --loader opencv") from error


def _device_id(device: torch.device) -> int | None:
    return (device.index or 0) if device.type == "cuda" else None
