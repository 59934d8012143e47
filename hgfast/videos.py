"""Video files as pictures, one after the other, and back.

What may enter: reading and writing frames with OpenCV. What is done with them is elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from hgfast.draw import Image
from hgfast.errors import HgfastError

ENDINGS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
"""What a video is known by."""


class Video:
    """A video's frames, (H, W, 3) uint8 RGB, as they are meant to be seen. count: as far as the file says, or 0.

    Raises:
        HgfastError: a file that OpenCV cannot read as a video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path)) if path.is_file() else None
        if self._capture is None or not self._capture.isOpened():
            raise HgfastError(f"{path} is not a video that OpenCV can read: replace it or leave it out")
        self.count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else 25.0  # frames a second

    def __iter__(self) -> Iterator[Image]:
        assert self._capture is not None
        while True:
            there, frame = self._capture.read()
            if not there:
                self._capture.release()
                return
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)


class VideoWriter:
    """An MP4 file of frames of one size, which gets its name once it is whole. Raises `HgfastError` where that fails."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self._beside = path.with_name(f".{path.stem}.{os.getpid()}.writing{path.suffix}")  # OpenCV goes by the ending
        self._writer: cv2.VideoWriter | None = None

    def add(self, image: Image) -> None:
        """One more frame, RGB."""
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._beside), code, self.rate, (image.shape[1], image.shape[0]))
            if not self._writer.isOpened():
                raise HgfastError(f"cannot write the video {self.path}: choose another folder with --out")
        self._writer.write(np.ascontiguousarray(image[..., ::-1]))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if kind is None:
            self._beside.replace(self.path)
        else:
            self._beside.unlink(missing_ok=True)
