"""What a run writes about itself while it goes on: metrics.jsonl for scripts, TensorBoard's events, a line on the console.

What may enter: writing numbers and finished pictures. How a picture is made is in `hgfast.looks`.

torch's SummaryWriter is not used: it writes in a thread of its own, whose traceback appears where a disk is full, and keeps
what it has for up to two minutes, which a kill then takes along. The records and their format are the same.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hgfast.draw import Image
from hgfast.errors import HgfastError
from hgfast.files import complete, to_json

VERSION, START = "brain.Event:2", 1  # of the events' format; SessionLog's number for it


class Logbook:
    """The files metrics.jsonl and events/ of one run's folder, which are made when there is something to write.

    There must be one for a run, as TensorBoard reads files of events one after the other. Every record is on its way to the
    disk when a method returns.

    Args:
        folder: the run's, exp/NAME.
        step: how many steps the run has done. TensorBoard no longer shows what was written of later ones: they are done again.
        first: is this the first rank? On others every method does nothing.

    Raises:
        HgfastError: from any method, a file that cannot be written, such as on a full disk. It is as it was before.
    """

    def __init__(self, folder: Path, step: int = 0, first: bool = True) -> None:
        self.folder, self.first = folder, first
        self._done = step
        self._events: FileIO | None = None
        self._said: set[str] = set()

    def forget_after(self, step: int) -> None:
        """Drop the lines of metrics.jsonl about steps after `step`, and a last one that a kill cut short.

        Raises:
            HgfastError: a whole line that was not written by `epoch`.
        """
        path = self.folder / "metrics.jsonl"
        if not self.first or not path.exists():
            return
        with self._writing(path):
            whole = [line for line in path.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for number, line in enumerate(whole, 1) if _step_of(line, f"{path}, line {number}") <= step]
            with complete(path) as beside:
                beside.write_text("".join(kept))

    def steps(self, step: int, values: Mapping[str, float]) -> None:
        """Points of TensorBoard's curves by name, such as train/loss."""
        if self.first and values:
            self._add(step, [{"tag": name, "simple_value": value} for name, value in values.items()])

    def picture(self, step: int, name: str, image: Image, ending: str = ".jpg") -> None:
        """A picture (H, W, 3) for TensorBoard; ".jpg" suits photographs, ".png" charts."""
        if self.first:
            height, width = image.shape[:2]
            encoded = cv2.imencode(ending, np.ascontiguousarray(image[..., ::-1]))[1].tobytes()
            held = {"height": height, "width": width, "colorspace": 3, "encoded_image_string": encoded}
            self._add(step, [{"tag": name, "image": held}])

    def epoch(self, record: Mapping[str, Any], shown: Sequence[str] | None = None) -> None:
        """Append an epoch's line to metrics.jsonl; where it was validated, also print it and give TensorBoard its figures.

        Args:
            record: "step", "epoch" and what else is known of it; "valid", figures by name, where it was validated, and then
                also "loss", "images_per_s" and "data_wait".
            shown: the figures to print; None prints all.
        """
        if not self.first:
            return
        path = self.folder / "metrics.jsonl"
        with self._writing(path), path.open("ab", buffering=0) as file:
            _append(file, f"{to_json(record)}\n".encode())
            os.fsync(file.fileno())
        if "valid" not in record:
            return
        figures = record["valid"]
        self.steps(record["step"], {f"valid/{name}": value for name, value in figures.items() if np.isfinite(value)})
        words = ", ".join(f"{name} {figures[name]:.4g}" for name in (figures if shown is None else shown))
        print(
            f"epoch {record['epoch']}: loss {record['loss']:.3f}, {record['images_per_s']:.0f} images/s, "
            f"waits for data {record['data_wait']:.0%} | {words}",
            flush=True,
        )

    def remark(self, text: str) -> None:
        """A line on stderr, once for each text."""
        if self.first and text not in self._said:
            self._said.add(text)
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the file of events. What is written after that begins another."""
        if self._events is not None:
            file, self._events = self._events, None
            with self._writing(self.folder / "events"):
                file.close()

    def _add(self, step: int, values: list[dict[str, Any]]) -> None:
        """Append one event with these values, fields of TensorFlow's `Summary.Value`."""
        with self._writing(self.folder / "events"):
            if self._events is None:
                self._events = self._begin()
            _append(self._events, _records({"wall_time": time.time(), "step": step, "summary": {"value": values}}))

    def _begin(self) -> FileIO:
        """A new file of events. Where the run goes on, its first ones hide those of later steps in the files before."""
        now = time.time()
        events: list[dict[str, Any]] = [{"wall_time": now, "file_version": VERSION}]
        if self._done:  # START hides its own step, too
            events.append({"wall_time": now, "step": self._done + 1, "session_log": {"status": START}})
        content, folder = _records(*events), self.folder / "events"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{now:.6f}.{os.getpid()}"  # they are read in the order of their names
        file = path.open("xb", buffering=0)
        try:
            _append(file, content)
        except OSError:
            file.close()
            path.unlink()
            raise
        return file

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """What cannot be written, in one sentence."""
        try:
            yield
        except OSError as error:
            raise HgfastError(f"cannot write {path} ({error.strerror}): free some space, or give it leave to write") from error


def _step_of(line: str, where: str) -> int:
    """The step of a line of metrics.jsonl. Raises `HgfastError` where it has none."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise HgfastError(f'{where}, is not one that training wrote (JSON with "step"): remove it') from error


def _append(file: FileIO, data: bytes) -> None:
    """Append all of it, or leave the unbuffered file as it was. Raises OSError."""
    before, rest = file.seek(0, os.SEEK_END), memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with suppress(OSError):  # what failed first is what counts
            file.truncate(before)
        raise


def _records(*events: dict[str, Any]) -> bytes:
    """Events, given by the fields of TensorFlow's `Event`, as they stand in a file."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
    except ImportError as error:
        raise HgfastError("the curves of a run are written with the package tensorboard: pip install tensorboard") from error
    buffer = BytesIO()
    for event in events:
        RecordWriter(buffer).write(Event(**event).SerializeToString())
    return buffer.getvalue()
