"""Reading and writing of video frames with OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
"""Suffixes of video files."""


class VideoReader:
    """Iterates over a video's upright frames, (H, W, 3) uint8 RGB. num_frames: from the file's header, or 0 if unknown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path)) if path.is_file() else None
        if self._capture is None or not self._capture.isOpened():
            raise HgfastError(f"{path} is not a video that OpenCV can read: replace it or leave it out")
        self.num_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate < 1000 else 25.0  # frames a second

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        assert self._capture is not None
        while True:
            ok, frame = self._capture.read()
            if not ok:
                self._capture.release()
                return
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)


class VideoWriter:
    """Writes frames of one size to an MP4 file, which gets its name once it is complete. Raises `HgfastError` on failure."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self._temp_path = path.with_name(f".{path.stem}.{os.getpid()}.writing{path.suffix}")  # OpenCV needs the suffix
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append an RGB frame."""
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._temp_path), fourcc, self.fps, (image.shape[1], image.shape[0]))
            if not self._writer.isOpened():
                raise HgfastError(f"cannot write the video {self.path}: choose another folder with --out")
        self._writer.write(np.ascontiguousarray(image[..., ::-1]))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if exc_type is None:
            self._temp_path.replace(self.path)
        else:
            self._temp_path.unlink(missing_ok=True)
