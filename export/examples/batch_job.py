"""Batch job: process all images of a folder and write one line of JSON per image.

    pip install hgfast onnxruntime
    python export/examples/batch_job.py best.fp32.onnx photos/ --out keypoints.jsonl

Threads decode images while the network runs in batches. Images that cannot be read are reported and skipped, and the exit code is
then 2. The output file is renamed when it is complete, so that an interrupted job leaves none.
"""

import argparse
import itertools
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write, prepare_file
from hgfast.runtime import Session
from hgfast.visualization.draw import read_image

BATCH_SIZE = 8  # images per call; the session splits it into batches that the network accepts
PREFETCH = 16  # images decoded in advance: more need memory, fewer let the network wait


def read_or_error(path: Path) -> np.ndarray | HgfastError:
    try:
        return read_image(path)
    except HgfastError as error:
        return error


def prefetch(paths: Sequence[Path]) -> Iterator[tuple[Path, np.ndarray | HgfastError]]:
    """Yield every path with its image or error, in order."""
    pending: deque[tuple[Path, Future[np.ndarray | HgfastError]]] = deque()
    remaining = iter(paths)
    with ThreadPoolExecutor(4) as pool:
        pending.extend((path, pool.submit(read_or_error, path)) for path in itertools.islice(remaining, PREFETCH))
        while pending:
            path, future = pending.popleft()
            yield path, future.result()
            pending.extend((path, pool.submit(read_or_error, path)) for path in itertools.islice(remaining, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("keypoints.jsonl"))
    args = parser.parse_args()
    paths = sorted(path for path in args.folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not paths:
        raise HgfastError(f"there are no images in {args.folder}: give another folder")
    prepare_file(args.out, "--out")

    num_unreadable, images, bar = 0, prefetch(paths), tqdm(total=len(paths), unit="image", disable=None)
    with Session(args.model) as session, atomic_write(args.out) as temp_path, temp_path.open("w", encoding="utf-8") as lines, bar:
        while batch := list(itertools.islice(images, BATCH_SIZE)):
            bar.update(len(batch))
            for error in [error for _, error in batch if isinstance(error, HgfastError)]:
                num_unreadable += 1
                print(f"skipped: {error}", file=sys.stderr)
            readable = [(path, image) for path, image in batch if not isinstance(image, HgfastError)]
            for (path, _), poses in zip(readable, session([image for _, image in readable])):
                lines.write(json.dumps({"file": str(path), **json.loads(poses.to_json())}) + "\n")
    print(f"{len(paths) - num_unreadable} of {len(paths)} images: {args.out}")
    if num_unreadable:
        raise HgfastError(f"{num_unreadable} of {len(paths)} images could not be read, see above")


if __name__ == "__main__":
    run_main(main)
