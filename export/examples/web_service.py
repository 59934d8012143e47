"""Web service: images in, keypoints out.

    pip install hgfast onnxruntime flask waitress
    python export/examples/web_service.py best.fp32.onnx --port 8080
    curl --data-binary @photo.jpg 'http://127.0.0.1:8080/keypoints?box=120,40,300,420'

All threads of waitress share one session: they decode and crop in parallel and take turns in the network. An invalid image or box
gives status 400 with one sentence, a too large image 413. Images must be JPEG or PNG. A request that takes longer than --timeout
to arrive is dropped. To serve other machines, put a proxy with TLS, authentication and a limit per client in front.
"""

import argparse
import os
import socket
from pathlib import Path

os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = "25000000"  # before cv2 is imported: a small file can declare a huge image

import cv2
import numpy as np
from flask import Flask, Response, abort, request
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, create_server

from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.fileio.image_format import format_problem
from hgfast.runtime import Session

MAX_BYTES, MAX_PIXELS, MAX_BOXES, THREADS = 20_000_000, int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]), 32, 4
MAX_CONNECTIONS = 900  # below the usual limit of 1024 open files
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # of JPEG and PNG: no other decoder of OpenCV is exposed


class Connection(HTTPChannel):
    """A connection that also times out if bytes keep arriving, but no complete request."""

    def handle_read(self) -> None:
        incomplete, since = self.request is not None, self.last_activity
        super().handle_read()
        if incomplete and self.request is not None:
            self.last_activity = since  # when the request began


def make_app(session: Session) -> Flask:
    """POST /keypoints with the bytes of an image and any number of box=x,y,width,height; GET /health."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BYTES

    @app.post("/keypoints")
    def keypoints() -> Response:
        boxes = [[float(number) for number in box.split(",")] for box in request.args.getlist("box")] or None
        if boxes and len(boxes) > MAX_BOXES:
            raise HgfastError(f"there are {len(boxes)} boxes: send at most {MAX_BOXES} per request")
        image = decode(request.get_data())
        people = session(image, boxes, padding=1.25 if boxes else 1.0)
        return Response(people.to_json(), mimetype="application/json")

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "runtime": session.runtime, "model": session.sidecar.artifact}

    @app.errorhandler(HgfastError)
    @app.errorhandler(ValueError)
    def bad_request(error: Exception) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, 400

    @app.errorhandler(413)
    def too_large(_: Exception) -> tuple[dict[str, str], int]:
        return {"error": f"the image has more than {MAX_BYTES} bytes or {MAX_PIXELS} pixels: send a smaller one"}, 413

    return app


def decode(body: bytes) -> np.ndarray:
    """Decode an image to RGB, rotated by its EXIF orientation."""
    if problem := format_problem(memoryview(body)):  # such as a JPEG that takes hours
        raise HgfastError(f"the image {problem}")
    try:
        image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR) if body.startswith(SIGNATURES) else None
    except cv2.error:  # the image exceeds the pixel limit
        abort(413)
    if image is None:
        raise HgfastError("the body is not a JPEG or PNG that OpenCV can read: send the bytes of one")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 also accepts requests of other machines")
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free port")
    parser.add_argument("--timeout", type=int, default=20, help="seconds in which a request must arrive")
    args = parser.parse_args()
    with Session(args.model) as session, socket.create_server((args.host, args.port)) as server_socket:
        print("takes JPEGs and PNGs at /keypoints of http://{}:{}".format(*server_socket.getsockname()), flush=True)
        # waitress reads all requests in one thread, so that slow clients hold no thread, but a connection each
        server = create_server(
            make_app(session),
            sockets=[server_socket],
            threads=THREADS,
            connection_limit=MAX_CONNECTIONS,
            channel_timeout=args.timeout,
            cleanup_interval=1,
            max_request_body_size=2 * MAX_BYTES,  # above MAX_CONTENT_LENGTH, whose error is JSON
            asyncore_use_poll=True,
        )
        assert isinstance(server, BaseWSGIServer)  # as there is one socket
        server.channel_class = Connection
        server.run()


if __name__ == "__main__":
    run_main(main)
