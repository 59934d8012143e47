"""Reading and writing of video frames with OpenCV.

OpenCV's wheel has FFmpeg under the LGPL and libvpx under a BSD license. PyAV's wheels would also decode AV1, but contain x264 and
x265, which are under the GPL, and torchcodec needs torch and the user's own FFmpeg. OpenCV passes no options to its encoders: VP9
at its default speed is four times as slow as VP8, which every browser plays as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write, writing

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".qt", ".avi", ".divx", ".mkv", ".webm", ".mpg", ".mpeg", ".m2v", ".vob", ".wmv", ".asf", ".ts",
    ".mts", ".m2ts", ".3gp", ".3g2", ".flv", ".f4v", ".ogv", ".mxf",
)  # fmt: skip
"""Suffixes of video files, in lower case."""
CODECS = {".webm": "VP80", ".mkv": "VP80", ".avi": "MJPG"}
"""Suffix of a written file -> four-character code of its codec."""
MAX_RATE = 60.0
"""Frames a second of a written file, at most, unless the video has more on average."""


class VideoReader:
    """Iterates over a video's upright frames, (H, W, 3) uint8 RGB.

    num_frames: number of frames that the file's header promises, or 0 if unknown. fps: mean number of frames a second. time_s:
    time of the last frame that was returned, in seconds from the start of the video. frames_read: number of frames so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path)) if path.is_file() else None
        if self._capture is None or not self._capture.isOpened():
            raise HgfastError(f"{path} is not a video that OpenCV can read: replace it or leave it out")
        self.num_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate < 1000 else 25.0
        self.codec = int(self._capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=False).decode("latin1").strip("\0 ")
        self.time_s, self.frames_read = 0.0, 0

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        assert self._capture is not None
        while True:
            ok, frame = self._capture.read()
            if not ok:
                self._capture.release()
                return
            time_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if self.frames_read and time_s <= self.time_s:  # the file has no time for this frame
                time_s = self.time_s + 1 / self.fps
            self.time_s, self.frames_read = max(0.0, time_s), self.frames_read + 1
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)

    @property
    def missing_end(self) -> bool:
        """Return whether fewer frames were read than the file promises, after all were read.

        MP4 and AVI files count their frames, including those that an edit list cuts off, so a film that was trimmed without
        encoding it again also counts as incomplete. For other files, OpenCV computes the number from the duration.
        """
        with self.path.open("rb") as file:
            head = file.read(12)
        if head[4:8] == b"ftyp" or head[:4] == b"RIFF":
            return self.frames_read < self.num_frames
        return self.time_s < 0.95 * self.num_frames / self.fps - 1

    def writing_rate(self) -> float:
        """Return the frames a second with which a written file keeps the times of the frames; reads the packets once."""
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
        times = []
        while capture.isOpened() and capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        capture.release()
        seconds = np.sort(times)
        steps = np.diff(seconds)
        steps = steps[steps > 0]
        if not len(steps) or (np.abs(seconds - seconds[0] - np.arange(len(seconds)) / self.fps) < 0.75 / self.fps).all():
            return self.fps
        return float(np.clip(1 / np.percentile(steps, 10), self.fps, max(MAX_RATE, self.fps)))


class VideoWriter:
    """Writes frames of one size to a video file, which gets its name once it is complete. Raises `HgfastError` on failure.

    The suffix selects the codec (`CODECS`); browsers play .webm. fps: constant number of frames a second of the file.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() not in CODECS:
            raise HgfastError(f"cannot write {path}: give it one of the suffixes {', '.join(CODECS)}; browsers play .webm")
        self.path, self.fps = path, fps
        self._file = ExitStack()
        self._writer: cv2.VideoWriter | None = None
        self._last: NDArray[np.uint8] | None = None
        self._written = 0

    def write(self, image: NDArray[np.uint8], time_s: float | None = None) -> None:
        """Append an RGB frame, or show it from `time_s` on: the previous frame is repeated until then, or replaced if it is due
        at the same time."""
        frame = np.ascontiguousarray(image[..., ::-1])
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fourcc = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            with writing(self.path, "choose another folder with --out"):
                temp_path = self._file.enter_context(atomic_write(self.path))
            self._writer = cv2.VideoWriter(str(temp_path), fourcc, self.fps, (image.shape[1], image.shape[0]))
            if not self._writer.isOpened():
                raise HgfastError(f"cannot write the video {self.path}: choose another folder with --out")
        due = self._written + 1 if time_s is None else round(time_s * self.fps)
        while self._last is not None and self._written < due:
            self._writer.write(self._last)
            self._written += 1
        self._last = frame

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is None:
            return
        if self._last is not None:
            self._writer.write(self._last)
        self._writer.release()
        with writing(self.path, "choose another folder with --out"):
            self._file.__exit__(exc_type, value, trace)
