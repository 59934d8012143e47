"""Logging of a run: metrics.jsonl for scripts, TensorBoard events, and a line per epoch on the console.

torch's SummaryWriter is not used: it writes in a separate thread, whose traceback appears when the disk is full, and buffers
records for up to two minutes, which a kill loses. The records and their format are the same.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hgfast.config import EVENTS_FOLDER, METRICS_FILE
from hgfast.errors import HgfastError, printable
from hgfast.fileio.files import atomic_write, to_json, writing
from hgfast.visualization.draw import Image

EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+\.\d{6})\.")
WRITE_HINT = "free some space or make it writable"
FILE_VERSION, SESSION_START = "brain.Event:2", 1  # version of the event format; SessionLog.START


class RunLogger:
    """Writes metrics.jsonl and events/ of a run's folder on the main rank; both are created on first use.

    A run must have a single logger, as TensorBoard reads event files one after the other. Records are handed to the operating
    system before a method returns. Methods raise `HgfastError` if a file cannot be written, which is then unchanged.

    step: number of steps the run has done. TensorBoard hides earlier records of later steps, which will be repeated.
    """

    def __init__(self, folder: Path, step: int = 0, is_main: bool = True) -> None:
        self.folder, self.is_main = folder, is_main
        self._resumed_step = step
        self._events: FileIO | None = None
        self._warned: set[str] = set()

    def truncate_after(self, step: int) -> None:
        """Remove the lines of metrics.jsonl for steps after `step`, and a last line that a kill truncated."""
        path = self.folder / METRICS_FILE
        if not self.is_main or not path.exists():
            return
        with writing(path, WRITE_HINT):
            complete_lines = [
                line for line in path.read_text("utf-8", "replace").splitlines(keepends=True) if line.endswith("\n")
            ]
            lines = [line for number, line in enumerate(complete_lines, 1) if _parse_step(line, f"{path}, line {number}") <= step]
            with atomic_write(path) as temp_path:
                temp_path.write_text("".join(lines), "utf-8")

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write points of TensorBoard's curves by name, such as train/loss."""
        if self.is_main and values:
            self._write_event(step, [{"tag": name, "simple_value": value} for name, value in values.items()])

    def log_image(self, step: int, name: str, image: Image, suffix: str = ".jpg") -> None:
        """Write an RGB image (H, W, 3) for TensorBoard; ".jpg" suits photographs, ".png" charts."""
        if self.is_main:
            height, width = image.shape[:2]
            encoded = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]))[1].tobytes()
            image_proto = {"height": height, "width": width, "colorspace": 3, "encoded_image_string": encoded}
            self._write_event(step, [{"tag": name, "image": image_proto}])

    def log_epoch(self, record: Mapping[str, Any]) -> None:
        """Append an epoch's line to metrics.jsonl; for a validated epoch also write TensorBoard's curves.

        record: "step", "epoch" and any other values; for a validated epoch also "valid" (metrics by name).
        """
        if not self.is_main:
            return
        path = self.folder / METRICS_FILE
        with writing(path, WRITE_HINT), path.open("ab", buffering=0) as file:
            _append_all(file, f"{to_json(record)}\n".encode())
            os.fsync(file.fileno())
        metrics = record.get("valid", {})
        self.log_scalars(record["step"], {f"valid/{name}": value for name, value in metrics.items() if np.isfinite(value)})

    def print_epoch(self, record: Mapping[str, Any], console_metrics: Sequence[str] | None = None) -> None:
        """Print the line of a validated epoch.

        record: as for `log_epoch`, with "loss", "images_per_s" and "data_wait".
        console_metrics: the metrics to print; None prints all.
        """
        if not self.is_main:
            return
        metrics = record["valid"]
        text = ", ".join(f"{name} {metrics[name]:.4g}" for name in (metrics if console_metrics is None else console_metrics))
        print(
            f"epoch {record['epoch']}: loss {record['loss']:.3f}, {record['images_per_s']:.0f} images/s, "
            f"waits for data {record['data_wait']:.0%} | {text}",
            flush=True,
        )

    def warn_once(self, text: str) -> None:
        """Print a text to stderr unless it was printed before."""
        if self.is_main and text not in self._warned:
            self._warned.add(text)
            print(printable(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the event file. Later records start a new one."""
        if self._events is not None:
            file, self._events = self._events, None
            with writing(self.folder / EVENTS_FOLDER, WRITE_HINT):
                file.close()

    def _write_event(self, step: int, values: list[dict[str, Any]]) -> None:
        """Append an event with these values, given by the fields of TensorFlow's `Summary.Value`."""
        with writing(self.folder / EVENTS_FOLDER, WRITE_HINT):
            if self._events is None:
                self._events = self._open_event_file()
            _append_all(self._events, _encode_events({"wall_time": time.time(), "step": step, "summary": {"value": values}}))

    def _open_event_file(self) -> FileIO:
        """Create an event file. In a resumed run its first events hide those of later steps in earlier files."""
        now = time.time()
        events: list[dict[str, Any]] = [{"wall_time": now, "file_version": FILE_VERSION}]
        if self._resumed_step:  # SESSION_START also hides its own step
            events.append({"wall_time": now, "step": self._resumed_step + 1, "session_log": {"status": SESSION_START}})
        content, folder = _encode_events(*events), self.folder / EVENTS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names; the clock may have been set back since the last one
        times = [float(match[1]) for file in folder.iterdir() if (match := EVENT_FILE.match(file.name))]
        path = folder / f"events.out.tfevents.{max([now, *(seconds + 1e-6 for seconds in times)]):.6f}.{os.getpid()}"
        file = path.open("xb", buffering=0)
        try:
            _append_all(file, content)
        except OSError:
            file.close()
            path.unlink()
            raise
        return file


def _parse_step(line: str, location: str) -> int:
    """Return the step of a line of metrics.jsonl. Raises `HgfastError` if it has none."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise HgfastError(f'{location}, was not written by training (JSON with "step"): remove it') from error


def _append_all(file: FileIO, data: bytes) -> None:
    """Append all data, or leave the unbuffered file unchanged. Raises OSError."""
    size, rest = file.seek(0, os.SEEK_END), memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with suppress(OSError):  # report the first error
            file.truncate(size)
        raise


def _encode_events(*events: dict[str, Any]) -> bytes:
    """Encode events, given by the fields of TensorFlow's `Event`, as records of an event file."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
    except ImportError as error:
        raise HgfastError("the package tensorboard, which writes a run's curves, is missing: pip install tensorboard") from error
    buffer = BytesIO()
    for event in events:
        RecordWriter(buffer).write(Event(**event).SerializeToString())
    return buffer.getvalue()
