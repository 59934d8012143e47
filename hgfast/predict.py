"""Find the keypoints in anybody's pictures with a trained network.

python hgfast/predict.py exp/mpii/best.pt photo.jpg folder/ --out predictions
python hgfast/predict.py exp/mpii/best.pt photo.jpg --box 120,40,300,420

Writes DIR/keypoints.json (coordinates of the picture as it is seen, in pixels, 0 at the outer edge of the first one) and
every picture with the skeleton drawn. A picture that cannot be read is named, and the others are done.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.checkpoints import load_model
from hgfast.cli import parse
from hgfast.distributed import pick_device
from hgfast.draw import Image, caption, draw_skeleton, glow, overlay, read_image, sheet, write_image
from hgfast.errors import HgfastError, run
from hgfast.files import one_a_line, prepare_folder, write_text
from hgfast.geometry import move, square_matrices
from hgfast.inference import check_boxes, look, squares
from hgfast.model import StackedHourglass

ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jp2", ".png", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm",
    ".pnm", ".pxm", ".hdr", ".pic", ".exr", ".sr", ".ras",
)  # fmt: skip
"""What a folder's pictures are known by. A file given by name may be called anything."""
AHEAD = 3  # pictures read while others are looked at
TILE = 224  # side of a tile on a sheet of heatmaps, pixels


@dataclass(kw_only=True)
class PredictConfig:
    """One prediction."""

    checkpoint: Path
    """file written by training, or weights of princeton-vl's or bearpaw's"""
    images: list[Path]
    """pictures, or folders of pictures"""
    out: Path = Path("predictions")
    """folder to write to"""
    box: str | None = None
    """x,y,width,height of the person in pixels, for every picture; several separated by spaces; none: the whole picture"""
    padding: float = 1.0
    """side of the square that the network sees over the longer side of the box; 1.25 for a box that fits tightly"""
    flip_test: bool = False
    """average with the mirrored picture's heatmaps; for networks that were trained on mirrored pictures"""
    decoder: Literal["argmax", "quarter", "dark"] | None = None
    """from heatmaps to points; none: what the checkpoint names"""
    draw: bool = True
    """write every picture with the skeleton drawn"""
    min_score: float = 0.2
    """draw only joints with at least this score; the JSON has them all"""
    heatmaps: bool = False
    """write a sheet of every joint's heatmap over what the network saw"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""


def read_boxes(text: str | None) -> NDArray[np.float64] | None:
    """`x,y,w,h x,y,w,h …` as (P, 4), or None for None."""
    if text is None:
        return None
    try:
        rows = [[float(number) for number in box.split(",")] for box in text.split()]
    except ValueError:
        rows = []
    if not rows or any(len(row) != 4 for row in rows):
        raise HgfastError(f"--box {text!r} must be x,y,width,height in pixels, such as 120,40,300,420")
    check_boxes(np.array(rows))
    return np.array(rows)


def expand(images: Sequence[Path], out: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Folders replaced by the pictures in them, each file once; and what is none, with the reason."""
    files: list[Path] = []
    bad: list[tuple[Path, str]] = []
    for path in images:
        if path.is_dir():
            try:
                inside = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in ENDINGS)
            except OSError as error:
                bad.append((path, f"{path} cannot be read ({error.strerror})"))
                continue
            files += inside
            if not inside:
                bad.append((path, f"{path} is a folder without pictures"))
        else:
            files.append(path)
    files = list(dict.fromkeys(files))
    if any(file.parent.resolve() == out.resolve() for file in files):
        raise HgfastError(f"--out {out} holds pictures to look at, which might be overwritten: choose another folder")
    return files, bad


def read_ahead(files: Sequence[Path]) -> Iterator[tuple[Path, Image | HgfastError]]:
    """Every file with its picture or what is wrong with it, in order, read while the caller is busy."""

    def read(path: Path) -> Image | HgfastError:
        try:
            return read_image(path)
        except HgfastError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        reading: list[Future[Image | HgfastError]] = [pool.submit(read, file) for file in files[:AHEAD]]
        for number, file in enumerate(files):
            if number + AHEAD < len(files):
                reading.append(pool.submit(read, files[number + AHEAD]))
            yield file, reading.pop(0).result()


def output_names(files: Sequence[Path]) -> dict[Path, str]:
    """A name without ending for each file's pictures: its own, and numbered where another file has it already."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        name, number = file.stem, 2
        while {name.lower(), sheet_name(name).lower()} & taken:
            name, number = f"{file.stem}_{number}", number + 1
        taken |= {name.lower(), sheet_name(name).lower()}
        names[file] = name
    return names


def sheet_name(name: str) -> str:
    """What a picture's sheet of heatmaps is called."""
    return f"{name}_heatmaps"


def heatmap_sheet(
    model: StackedHourglass,
    crops: NDArray[np.uint8],
    heatmaps: NDArray[np.float32],
    keypoints: NDArray[np.float64],
    min_score: float,
) -> Image:
    """For each person the crop (S, S, 3) with the skeleton at `keypoints` (P, K, 3) input pixels, and one tile a joint."""
    skeleton, columns = model.meta.skeleton, 6
    tiles: list[Image] = []
    for crop, maps, person in zip(crops, heatmaps, keypoints):
        large = np.asarray(cv2.resize(crop, (TILE, TILE), interpolation=cv2.INTER_AREA), np.uint8)
        points, scores = person[:, :2] * TILE / crop.shape[0], person[:, 2]
        row = [caption(draw_skeleton(large, points, skeleton, scores >= min_score), f"score {min_score:g} and above")]
        for joint, likely, score in zip(skeleton.joints, glow(maps, model.meta.kind), scores):
            row.append(caption(overlay(large, likely), f"{joint} {score:.2f}"))
        tiles += row + [np.zeros_like(large)] * (-len(row) % columns)
    return sheet(tiles, columns)


def predict(config: PredictConfig) -> dict[str, Any]:
    """The content of keypoints.json: what was found, and what could not be done. Writes the files."""
    boxes = read_boxes(config.box)
    if not 0 < config.padding < float("inf"):
        raise HgfastError(f"--padding {config.padding:g} must be above 0")
    if boxes is None and config.padding != 1:
        raise HgfastError("--padding goes with --box: a whole picture is not padded")
    model = load_model(config.checkpoint, pick_device(config.device), config.decoder)
    files, bad = expand(config.images, config.out)
    names, skeleton = output_names(files), model.meta.skeleton
    prepare_folder(config.out, "--out")
    failed = [{"file": str(path), "reason": reason} for path, reason in bad]
    done: list[dict[str, Any]] = []
    result = {
        "checkpoint": str(config.checkpoint),
        "joints": skeleton.joints,
        "edges": skeleton.edges,
        "coordinates": "pixels of the upright picture, x right, y down, (0, 0) at the outer corner of the first pixel",
        "flip_test": config.flip_test,
        "images": done,
        "failed": failed,
    }
    try:
        for file, image in tqdm(read_ahead(files), total=len(files), unit="picture", disable=None, leave=False):
            try:
                if isinstance(image, HgfastError):
                    raise image
                done.append(predict_one(config, model, file, image, boxes, names[file]))
            except HgfastError as error:
                reason = str(error) if str(file) in str(error) else f"{file}: {error}"
                failed.append({"file": str(file), "reason": reason})
    finally:  # what was done is kept, whatever ends the run
        if done:
            write_text(config.out / "keypoints.json", one_a_line(result, ("images", "failed")), "--out")
    return result


def predict_one(
    config: PredictConfig, model: StackedHourglass, file: Path, image: Image, boxes: NDArray[np.float64] | None, name: str
) -> dict[str, Any]:
    """The people in one picture, as keypoints.json has them; draws them. Raises `HgfastError` for what cannot be done."""
    centre, side = squares(image, boxes, config.padding)
    keypoints, crops, heatmaps = look(model, image, centre, side, config.flip_test)
    entry: dict[str, Any] = {
        "file": str(file),
        "width": image.shape[1],
        "height": image.shape[0],
        "people": [
            {
                "square": [round(float(v), 3) for v in (*(centre[n] - side[n] / 2), side[n], side[n])],
                "keypoints": [[round(x, 3), round(y, 3), round(s, 4)] for x, y, s in keypoints[n].tolist()],
            }
            for n in range(len(keypoints))
        ],
    }
    if config.draw:
        for person in keypoints:
            image = draw_skeleton(image, person[:, :2], model.meta.skeleton, person[:, 2] >= config.min_score)
        entry["drawn"] = f"{name}.jpg"
        write_image(config.out / entry["drawn"], image)
    if config.heatmaps:
        within = keypoints.copy()
        within[..., :2] = move(keypoints[..., :2] - model.meta.shift, square_matrices(centre, side, model.meta.input_size))
        entry["heatmaps"] = f"{sheet_name(name)}.jpg"
        write_image(config.out / entry["heatmaps"], heatmap_sheet(model, crops, heatmaps, within, config.min_score))
    return entry


def main() -> None:
    config = parse(PredictConfig, positional="checkpoint", rest="images", description=__doc__ or "")
    cv2.utils.logging.setLogLevel(0)  # what is wrong with a picture is said once, by us
    result = predict(config)
    done, failed = len(result["images"]), result["failed"]
    if done:
        pictures = ", and the pictures beside it" if config.draw or config.heatmaps else ""
        print(f"{done} picture{'s' * (done != 1)} done: {config.out / 'keypoints.json'}{pictures}", flush=True)
    for entry in failed:
        print(f"not done: {entry['reason']}", file=sys.stderr)
    if failed:
        raise HgfastError(f"{len(failed)} of {done + len(failed)} pictures could not be done, named above")


if __name__ == "__main__":
    run(main)
