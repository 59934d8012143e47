"""A batch job: all pictures of a folder, a line of JSON each, as fast as the machine goes.

    pip install . onnxruntime tqdm
    python export/examples/batch_job.py best.fp32.onnx photos/ --out keypoints.jsonl

Threads decode while the network works, and pictures go through it several at once. Those that cannot be read are named and left
out, and the exit code is then 2. The file gets its name when it is whole, so that a job that was broken off leaves none.
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

from hgfast.draw import read_image
from hgfast.errors import HgfastError, run
from hgfast.files import complete, prepare_file
from hgfast.runtime import Session

AT_ONCE = 8  # pictures given to the session, which splits what is more than the network takes at once
AHEAD = 16  # pictures decoded before their turn: more take memory, fewer let the network wait


def read(path: Path) -> np.ndarray | HgfastError:
    try:
        return read_image(path)
    except HgfastError as error:
        return error


def read_ahead(paths: Sequence[Path]) -> Iterator[tuple[Path, np.ndarray | HgfastError]]:
    """Every picture, or what is wrong with it, in order."""
    waiting: deque[tuple[Path, Future[np.ndarray | HgfastError]]] = deque()
    coming = iter(paths)
    with ThreadPoolExecutor(4) as pool:
        waiting.extend((path, pool.submit(read, path)) for path in itertools.islice(coming, AHEAD))
        while waiting:
            path, picture = waiting.popleft()
            yield path, picture.result()
            waiting.extend((path, pool.submit(read, path)) for path in itertools.islice(coming, 1))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("model", type=Path)
    words.add_argument("folder", type=Path)
    words.add_argument("--out", type=Path, default=Path("keypoints.jsonl"))
    given = words.parse_args()
    paths = sorted(path for path in given.folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not paths:
        raise HgfastError(f"there are no pictures in {given.folder}: give a folder with some")
    prepare_file(given.out, "--out")

    bad, pictures, bar = 0, read_ahead(paths), tqdm(total=len(paths), unit="picture", disable=None)
    with Session(given.model) as session, complete(given.out) as beside, beside.open("w") as lines, bar:
        while some := list(itertools.islice(pictures, AT_ONCE)):
            bar.update(len(some))
            for error in [error for _, error in some if isinstance(error, HgfastError)]:
                bad += 1
                print(f"left out: {error}", file=sys.stderr)
            good = [(path, image) for path, image in some if not isinstance(image, HgfastError)]
            for (path, _), people in zip(good, session([image for _, image in good])):
                lines.write(json.dumps({"file": str(path), **json.loads(people.to_json())}) + "\n")
    print(f"{len(paths) - bad} of {len(paths)} pictures: {given.out}")
    if bad:
        raise HgfastError(f"{bad} of {len(paths)} pictures could not be read, named above")


if __name__ == "__main__":
    run(main)
