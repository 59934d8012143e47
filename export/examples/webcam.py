"""A camera, live: the skeleton over every frame that there is time for, until q, Ctrl-C or the end.

    pip install . onnxruntime opencv-python
    python export/examples/webcam.py best.fp32.onnx
    python export/examples/webcam.py best.fp32.onnx --source film.mp4 --out drawn.mp4

A camera goes on while the network works, so a thread reads it and keeps the newest frame only: what is shown is never older than
one look. A file loses no frame. The window needs opencv-python; opencv-python-headless has none, and --out FILE works with both.
"""

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2

from hgfast.errors import HgfastError, run
from hgfast.runtime import Session
from hgfast.videos import Video, VideoWriter


def newest_frames(number: int) -> Iterator[Any]:
    """Frames of a camera, RGB; those that nobody was ready for are passed over."""
    camera, ready = cv2.VideoCapture(number), threading.Condition()
    if not camera.isOpened():
        raise HgfastError(f"there is no camera {number}: choose another with --source, or a video file")
    newest: list[Any] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            there, frame = camera.read()
            with ready:
                newest[:] = [frame] if there else [None]
                ready.notify()
            if not there:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while True:
            with ready:
                ready.wait_for(lambda: newest)
                frame = newest.pop()
            if frame is None:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        ended.set()
        reader.join()
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
    is_camera = given.source.isdigit()
    frames = newest_frames(int(given.source)) if is_camera else iter(Video(Path(given.source)))

    done, began = 0, time.perf_counter()
    with ExitStack() as held:
        session = held.enter_context(Session(given.model))
        film = held.enter_context(VideoWriter(given.out, 25)) if given.out else None
        try:
            for image in frames:
                drawn = session(image).draw(image)
                done += 1
                if film is not None:
                    film.add(drawn)
                if (film is None and not show(drawn)) or done == given.frames:
                    break
        except KeyboardInterrupt:
            print("stopped")  # what was written stays
    print(f"{done} frames, {done / (time.perf_counter() - began):.1f} a second")


if __name__ == "__main__":
    run(main)
