"""A camera, live: the skeleton over every frame that there is time for, until q, Ctrl-C or the end.

    pip install . onnxruntime opencv-python
    python export/examples/webcam.py best.fp32.onnx
    python export/examples/webcam.py best.fp32.onnx --source film.mp4 --out drawn.mp4

A camera goes on while the network works, so a thread reads it and keeps the newest frame only: what is shown is never older than
one look. A file loses no frame. The window needs opencv-python; opencv-python-headless has none, and --out FILE works with both.
"""

import argparse
import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from hgfast.errors import HgfastError, run
from hgfast.runtime import Session
from hgfast.videos import Video, VideoWriter

PATIENCE = 10.0  # seconds that a camera may take for a frame


def newest_frames(number: int) -> Iterator[Any]:
    """Frames of a camera, RGB; those that nobody was ready for are passed over."""
    camera, ended = cv2.VideoCapture(number), threading.Event()
    if not camera.isOpened():
        raise HgfastError(f"there is no camera {number}: choose another with --source, or a video file")
    kept: queue.Queue[Any] = queue.Queue(1)

    def read() -> None:
        there = True
        while there and not ended.is_set():
            there, frame = camera.read()
            with contextlib.suppress(queue.Empty):
                kept.get_nowait()
            kept.put(frame if there else None)  # never waits, as nobody else puts

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while (frame := kept.get(timeout=PATIENCE)) is not None:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    except queue.Empty:
        raise HgfastError(f"camera {number} gave no frame for {PATIENCE:g} seconds: is it still connected?") from None
    finally:
        ended.set()
        reader.join(PATIENCE)
        camera.release()


def show(image: Any) -> bool:
    """In a window. False once q was pressed."""
    try:
        cv2.imshow("hgfast", image[..., ::-1])
    except cv2.error as error:
        raise HgfastError("this OpenCV has no windows: pip install opencv-python, or write with --out FILE") from error
    return cv2.waitKey(1) != ord("q")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("model", type=Path)
    words.add_argument("--source", default="0", help="number of a camera, or a video file")
    words.add_argument("--out", type=Path, help="write the frames here, instead of showing them")
    words.add_argument("--frames", type=int, help="end after so many")
    given = words.parse_args()
    film = None if given.source.isdigit() else Video(Path(given.source))
    frames, rate = (newest_frames(int(given.source)), 25.0) if film is None else (iter(film), film.rate)

    done, written = 0, 0
    with contextlib.ExitStack() as held:
        session = held.enter_context(Session(given.model))
        out = held.enter_context(VideoWriter(given.out, rate)) if given.out else None
        began = time.perf_counter()
        try:
            for image in frames:
                drawn = session(image).draw(image)
                done += 1
                # a film has all its frames; of a camera one stands for as long as it was the newest
                due = done if film is not None else round((time.perf_counter() - began) * rate)
                while out is not None and written < due:
                    out.add(drawn)
                    written += 1
                if (out is None and not show(drawn)) or done == given.frames:
                    break
        except KeyboardInterrupt:
            print("stopped")  # what was written stays
        print(f"{done} frames, {done / (time.perf_counter() - began):.1f} a second")


if __name__ == "__main__":
    run(main)
