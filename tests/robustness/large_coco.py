"""Measure the file check on a COCO file of a million annotations: seconds and peak memory, with and without decoding.

    python -m tests.robustness.large_coco --folder /tmp/large --json large-coco.json

Writes 300 000 distinct JPEGs (copies of 64 images, each with its number in a comment) and the annotations of 17 joints, with
outlines as in COCO's own files, unless the folder has them. Then runs `hgfast check --loader opencv` twice, the second time with
nothing left to decode, and samples the memory of the process and its descendants.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from hgfast.bench.harness.record import machine_info, make_record, write_record
from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from tests.conftest import ROOT
from tests.robustness.usage import measure_usage

JOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
WIDTH, HEIGHT = 256, 192
DISTINCT = 64
"""Number of images that are drawn; the others differ from them in a comment."""


@dataclass(kw_only=True)
class LargeCocoConfig:
    """Settings of the measurement."""

    folder: Path
    """folder for the data set, which is kept and used again"""
    annotations: int = 1_000_000
    """number of annotations"""
    images: int = 300_000
    """number of images"""
    outline: int = 30
    """points of each annotation's outline, which hgfast does not need; 0 for none"""
    repeat: bool = False
    """measure only the check with nothing left to decode"""
    json: Path | None = None
    """write the record to this file"""

    def validate(self) -> None:
        """Raise `HgfastError` for values out of range."""
        if not 0 < self.images <= self.annotations or self.outline < 0:
            raise HgfastError("--images must be from 1 to --annotations, --outline at least 0")


def write_images(folder: Path, count: int) -> None:
    """Write JPEGs of 256 x 192 pixels, named as COCO's, that differ in a comment or in their content."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = (rng.integers(0, 255, (6, 8, 3), dtype=np.uint8) for _ in range(DISTINCT))
    encoded = [
        cv2.imencode(".jpg", cv2.resize(one, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))[1].tobytes() for one in noise
    ]
    for number in tqdm(range(count), desc="images", disable=None):
        comment = b"\xff\xfe\x00\x0e%012d" % number
        base = encoded[number % DISTINCT]
        (folder / f"{number:012d}.jpg").write_bytes(base[:2] + comment + base[2:])


def write_annotations(path: Path, annotations: int, images: int, outline: int) -> None:
    """Write COCO keypoints: every joint lies in its box, which lies in its image; a third of the joints is not labeled."""
    category = {"id": 1, "name": "person", "keypoints": JOINTS, "skeleton": [[16, 14], [14, 12], [17, 15], [15, 13]]}
    rng = np.random.default_rng(1)
    entries = ({"id": n, "file_name": f"{n:012d}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(images))
    with path.open("w") as file:
        file.write(
            f'{{"categories": [{json.dumps(category)}],\n"images": [{",".join(map(json.dumps, entries))}],\n"annotations": ['
        )
        for number in tqdm(range(annotations), desc="annotations", disable=None):
            size = rng.integers(40, (WIDTH - 1, HEIGHT - 1))
            corner = rng.integers(0, (WIDTH, HEIGHT) - size)
            points = corner + rng.integers(0, size, (len(JOINTS), 2))
            v = rng.choice(3, (len(JOINTS), 1), p=(1 / 3, 1 / 6, 1 / 2))
            v[0] = 2
            entry = {
                "id": number,
                "image_id": number % images,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [*corner.tolist(), *size.tolist()],
                "area": int(size.prod()),
                "num_keypoints": int((v > 0).sum()),
                "keypoints": np.hstack([points * (v > 0), v]).ravel().tolist(),
            }
            if outline:
                entry["segmentation"] = [(corner + rng.random((outline, 2)) * size).round(2).ravel().tolist()]
            file.write(("," if number else "") + json.dumps(entry))
        file.write("]}\n")


def measure_check(config: LargeCocoConfig) -> dict[str, Any]:
    """Run the check in a process of its own. Raises `HgfastError` if it finds a bad image or refuses the file."""
    words = ["hgfast/__main__.py", "check", "--dataset", "coco", "--annotations", str(config.folder / "train.json")]
    words += ["--images", str(config.folder / "images"), "--loader", "opencv"]
    peak_kb, began = 0, time.monotonic()
    with (config.folder / "output.txt").open("w+") as output:
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=output)
        try:
            while process.poll() is None:
                peak_kb = max(peak_kb, measure_usage(process.pid).rss_kb)
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        seconds = time.monotonic() - began
        output.seek(0)
        lines = output.read().splitlines()
    if process.returncode:
        raise HgfastError(f"the check ended with exit code {process.returncode}: {' '.join(lines[-3:])}")
    return {"last_line": lines[-1], "seconds": round(seconds, 1), "peak_mb": round(peak_kb / 1024)}


def main() -> None:
    config = parse(LargeCocoConfig, description=__doc__ or "")
    config.validate()
    machine = machine_info()
    if not (config.folder / "train.json").exists():
        shutil.rmtree(config.folder / "images", ignore_errors=True)
        write_images(config.folder / "images", config.images)
        write_annotations(config.folder / "train.json", config.annotations, config.images, config.outline)
    megabytes = round((config.folder / "train.json").stat().st_size / 1e6)
    if not config.repeat:
        (config.folder / "hgfast-check.json").unlink(missing_ok=True)
    rows = [
        {"annotations": config.annotations, "images": config.images, "file_mb": megabytes, **measure_check(config)}
        for _ in range(1 if config.repeat else 2)
    ]
    print(tabulate(rows, headers="keys"), flush=True)
    write_record(make_record(rows, machine), config.json)


if __name__ == "__main__":
    run_main(main)
