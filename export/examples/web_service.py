"""A web service: pictures in, keypoints out.

    pip install . onnxruntime flask waitress
    python export/examples/web_service.py best.fp32.onnx --port 8080
    curl --data-binary @photo.jpg 'http://127.0.0.1:8080/keypoints?box=120,40,300,420'

One session serves all of waitress's threads: they decode and crop side by side and take turns in the network. What is no JPEG or
PNG and a box that is none are answered with 400 and one sentence, what is too large with 413. Before others than this machine may
ask it, put a proxy in front, which has TLS, passwords and time limits.
"""

import argparse
import os
import socket
from pathlib import Path

os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = "25000000"  # before cv2 is imported: few bytes can declare a vast picture

import cv2
import numpy as np
from flask import Flask, Response, abort, request
from waitress import serve

from hgfast.errors import HgfastError, run
from hgfast.runtime import Session

MOST_BYTES, MOST_PIXELS, MOST_BOXES, THREADS = 20_000_000, int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]), 32, 4
KINDS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # how a JPEG and a PNG begin: OpenCV's other decoders are nobody's to try


def make_app(session: Session) -> Flask:
    """POST /keypoints with a picture's bytes, and any number of box=x,y,width,height; GET /health."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES

    @app.post("/keypoints")
    def keypoints() -> Response:
        boxes = [[float(number) for number in box.split(",")] for box in request.args.getlist("box")] or None
        if boxes and len(boxes) > MOST_BOXES:
            raise HgfastError(f"there are {len(boxes)} boxes: ask for at most {MOST_BOXES} at a time")
        image = decode(request.get_data())
        people = session(image, boxes, padding=1.25 if boxes else 1.0)
        return Response(people.to_json(), mimetype="application/json")

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "runtime": session.runtime, "model": session.sidecar.artefact}

    @app.errorhandler(HgfastError)
    @app.errorhandler(ValueError)
    def refused(error: Exception) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, 400

    @app.errorhandler(413)
    def too_large(_: Exception) -> tuple[dict[str, str], int]:
        return {"error": f"the picture has more than {MOST_BYTES} bytes or {MOST_PIXELS} pixels: send a smaller one"}, 413

    return app


def decode(body: bytes) -> np.ndarray:
    """RGB, as it is meant to be seen."""
    try:
        image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR) if body.startswith(KINDS) else None
    except cv2.error:  # it looks at the size before it decodes
        abort(413)
    if image is None:
        raise HgfastError("the body is no JPEG or PNG that OpenCV can read: send the bytes of one")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("model", type=Path)
    words.add_argument("--host", default="127.0.0.1", help="0.0.0.0 listens to other machines too")
    words.add_argument("--port", type=int, default=8080, help="0 takes any that is free")
    given = words.parse_args()
    with Session(given.model) as session, socket.create_server((given.host, given.port)) as listening:
        print("takes JPEGs and PNGs at /keypoints of http://{}:{}".format(*listening.getsockname()), flush=True)
        serve(make_app(session), sockets=[listening], threads=THREADS)


if __name__ == "__main__":
    run(main)
