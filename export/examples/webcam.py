"""Webcam: show the skeleton over the live image until q, Ctrl-C or the end of the video.

    pip install hgfast onnxruntime opencv-python
    python export/examples/webcam.py best.fp32.onnx
    python export/examples/webcam.py best.fp32.onnx --source film.mp4 --out drawn.webm

A thread reads the camera and keeps only the latest frame, so that the display lags by at most one inference. All frames of a
video file are processed. The window needs opencv-python, because opencv-python-headless has none; --out FILE works with both.
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

from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.fileio.video import VideoReader, VideoWriter
from hgfast.runtime import Session

FRAME_TIMEOUT = 10.0  # seconds to wait for a frame of the camera


def latest_frames(index: int) -> Iterator[Any]:
    """Yield RGB frames of a camera; frames that arrive during inference are dropped."""
    camera, stop_event = cv2.VideoCapture(index), threading.Event()
    if not camera.isOpened():
        raise HgfastError(f"there is no camera {index}: choose another with --source, or a video file")
    frame_queue: queue.Queue[Any] = queue.Queue(1)

    def read() -> None:
        ok = True
        while ok and not stop_event.is_set():
            ok, frame = camera.read()
            with contextlib.suppress(queue.Empty):
                frame_queue.get_nowait()
            frame_queue.put(frame if ok else None)  # never blocks: this is the only producer

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while (frame := frame_queue.get(timeout=FRAME_TIMEOUT)) is not None:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    except queue.Empty:
        raise HgfastError(f"camera {index} gave no frame for {FRAME_TIMEOUT:g} seconds: is it still connected?") from None
    finally:
        stop_event.set()
        reader.join(FRAME_TIMEOUT)
        camera.release()


def show(image: Any) -> bool:
    """Show an image in a window. Returns False once q was pressed."""
    try:
        cv2.imshow("hgfast", image[..., ::-1])
    except cv2.error as error:
        raise HgfastError("this OpenCV has no windows: pip install opencv-python, or write with --out FILE") from error
    return cv2.waitKey(1) != ord("q")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--source", default="0", help="index of a camera, or a video file")
    parser.add_argument("--out", type=Path, help="write the frames to this .webm file instead of showing them")
    parser.add_argument("--frames", type=int, help="stop after this number of frames")
    args = parser.parse_args()
    video = None if args.source.isdigit() else VideoReader(Path(args.source))
    frames, rate = (latest_frames(int(args.source)), 25.0) if video is None else (iter(video), video.fps)

    num_frames = 0
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(Session(args.model))
        out = stack.enter_context(VideoWriter(args.out, video.writing_rate() if video else rate)) if args.out else None
        start_time = time.perf_counter()
        try:
            for image in frames:
                overlay = session(image).draw(image)
                num_frames += 1
                if out is not None:  # keep the time of each frame of a video, and the time at which a camera's frame came
                    out.write(overlay, video.time_s if video is not None else time.perf_counter() - start_time)
                if (out is None and not show(overlay)) or num_frames == args.frames:
                    break
        except KeyboardInterrupt:
            print("stopped")  # the frames written so far are kept
        print(f"{num_frames} frames, {num_frames / (time.perf_counter() - start_time):.1f} a second")


if __name__ == "__main__":
    run_main(main)
