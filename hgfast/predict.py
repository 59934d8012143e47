"""Find the keypoints in anybody's pictures with a trained network.

python hgfast/predict.py exp/mpii/best.pt photo.jpg folder/ --out predictions
python hgfast/predict.py exp/mpii/best.pt photo.jpg --box 120,40,300,420
python hgfast/predict.py exp/mpii/best.int8.onnx video.mp4

Writes DIR/keypoints.json (coordinates of the picture as it is seen, in pixels, 0 at the outer edge of the first one) and
every picture with the skeleton drawn. A picture that cannot be read is named, and the others are done.
What may enter: the flags, and what is written. Looking is `inference`'s and `runtime`'s, drawing `draw`'s.
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

from hgfast import videos
from hgfast.boxes import check_boxes
from hgfast.checkpoints import load_model
from hgfast.cli import parse
from hgfast.distributed import pick_device
from hgfast.draw import Image, caption, draw_skeleton, glow, overlay, read_image, sheet, write_image
from hgfast.errors import HgfastError, run
from hgfast.files import complete, one_a_line, prepare_folder, to_json, write_text
from hgfast.geometry import move, square_matrices
from hgfast.inference import Network
from hgfast.runtime import Session
from hgfast.sidecar import HEATMAPS, is_artefact
from hgfast.videos import Video, VideoWriter

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
    """file written by training, weights of princeton-vl's or bearpaw's, or an ONNX, TorchScript or engine of export/"""
    images: list[Path]
    """pictures, videos, or folders of them"""
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
                inside = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in (*ENDINGS, *videos.ENDINGS))
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


def read_ahead(files: Sequence[Path]) -> Iterator[tuple[Path, Image | Video | HgfastError]]:
    """Every file with its picture or what is wrong with it, in order, read while the caller is busy; videos are only opened."""

    def read(path: Path) -> Image | Video | HgfastError:
        try:
            return Video(path) if path.suffix.lower() in videos.ENDINGS else read_image(path)
        except HgfastError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        reading: list[Future[Image | Video | HgfastError]] = [pool.submit(read, file) for file in files[:AHEAD]]
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
    network: Network | Session, crops: Image, heatmaps: Any, keypoints: Any, scores: Any, min_score: float
) -> Image:
    """For each person the crop (S, S, 3) with the skeleton at `keypoints` (P, K, 2) input pixels, and one tile a joint."""
    skeleton, columns = network.skeleton, 6
    tiles: list[Image] = []
    for crop, maps, points, likely in zip(crops, heatmaps, keypoints, scores):
        large = np.asarray(cv2.resize(crop, (TILE, TILE), interpolation=cv2.INTER_AREA), np.uint8)
        drawn = draw_skeleton(large, points * TILE / crop.shape[0], skeleton, likely >= min_score)
        row = [caption(drawn, f"score {min_score:g} and above")]
        for joint, heat, score in zip(skeleton.joints, glow(maps, kind_of(network)), likely):
            row.append(caption(overlay(large, heat), f"{joint} {score:.2f}"))
        tiles += row + [np.zeros_like(large)] * (-len(row) % columns)
    return sheet(tiles, columns)


def open_network(config: PredictConfig) -> Network | Session:
    """The network of a checkpoint or of an exported file. Raises `HgfastError` for flags that the latter was not made with."""
    if not is_artefact(config.checkpoint):
        model = load_model(config.checkpoint, pick_device(config.device), config.decoder)
        return Network(model, config.flip_test)
    session = Session(config.checkpoint)
    sidecar = session.sidecar
    if config.flip_test != sidecar.flip_test or (config.decoder or sidecar.decoder) != sidecar.decoder:
        raise HgfastError(
            f"{config.checkpoint} was exported {'with' if sidecar.flip_test else 'without'} a flip test and decodes by "
            f"{sidecar.decoder}: give --flip-test and --decoder accordingly, or export it again"
        )
    if config.heatmaps and HEATMAPS not in [port.name for port in sidecar.outputs]:
        raise HgfastError(f"{config.checkpoint} gives no heatmaps: export it with --outputs keypoints,heatmaps")
    return session


def kind_of(network: Network | Session) -> str:
    """Of the network's maps."""
    return network.sidecar.maps if isinstance(network, Session) else network.model.meta.kind


def shift_of(network: Network | Session) -> float:
    """Source pixels that were added to what the network said."""
    return network.sidecar.shift if isinstance(network, Session) else network.model.meta.shift


def predict(config: PredictConfig) -> dict[str, Any]:
    """The content of keypoints.json: what was found, and what could not be done. Writes the files."""
    boxes = read_boxes(config.box)
    if not 0 < config.padding < float("inf"):
        raise HgfastError(f"--padding {config.padding:g} must be above 0")
    if boxes is None and config.padding != 1:
        raise HgfastError("--padding goes with --box: a whole picture is not padded")
    network = open_network(config)
    files, bad = expand(config.images, config.out)
    names = output_names(files)
    prepare_folder(config.out, "--out")
    failed = [{"file": str(path), "reason": reason} for path, reason in bad]
    done: list[dict[str, Any]] = []
    result = {
        "checkpoint": str(config.checkpoint),
        "joints": network.skeleton.joints,
        "edges": network.skeleton.edges,
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
                if isinstance(image, Video):
                    done.append(predict_video(config, network, image, boxes, names[file]))
                else:
                    done.append(predict_one(config, network, file, image, boxes, names[file]))
            except HgfastError as error:
                reason = str(error) if str(file) in str(error) else f"{file}: {error}"
                failed.append({"file": str(file), "reason": reason})
    finally:  # what was done is kept, whatever ends the run
        if done:
            write_text(config.out / "keypoints.json", one_a_line(result, ("images", "failed")), "--out")
    return result


def predict_one(
    config: PredictConfig,
    network: Network | Session,
    file: Path,
    image: Image,
    boxes: NDArray[np.float64] | None,
    name: str,
) -> dict[str, Any]:
    """The people in one picture, as keypoints.json has them; draws them. Raises `HgfastError` for what cannot be done."""
    poses, crops, heatmaps = network.look(image, boxes, config.padding)
    entry: dict[str, Any] = {"file": str(file), "width": image.shape[1], "height": image.shape[0], "people": poses.plain}
    if config.draw:
        entry["drawn"] = f"{name}.jpg"
        write_image(config.out / entry["drawn"], poses.draw(image, config.min_score))
    if config.heatmaps:
        side = poses.squares[:, 2]
        matrices = square_matrices(poses.squares[:, :2] + side[:, None] / 2, side, crops.shape[1])
        within = move(poses.keypoints - shift_of(network), matrices)
        entry["heatmaps"] = f"{sheet_name(name)}.jpg"
        drawn = heatmap_sheet(network, crops, heatmaps, within, poses.scores, config.min_score)
        write_image(config.out / entry["heatmaps"], drawn)
    return entry


def predict_video(
    config: PredictConfig, network: Network | Session, video: Video, boxes: NDArray[np.float64] | None, name: str
) -> dict[str, Any]:
    """Every frame's people, a line of NAME.jsonl each, and the video drawn. Raises `HgfastError` for what cannot be done."""
    if config.heatmaps:
        raise HgfastError(f"{video.path} is a video: --heatmaps is for pictures")
    entry: dict[str, Any] = {"file": str(video.path), "frames": 0, "frames_per_s": video.rate, "keypoints": f"{name}.jsonl"}
    drawn = config.out / f"{name}.mp4"
    bar = tqdm(video, total=video.count or None, unit="frame", desc=video.path.name, disable=None, leave=False)
    try:
        with (
            complete(config.out / entry["keypoints"]) as beside,
            beside.open("w") as lines,
            VideoWriter(drawn, video.rate) as out,
        ):
            for number, image in enumerate(bar):
                poses = network.look(image, boxes, config.padding)[0]
                line = {"frame": number, "time_s": round(number / video.rate, 4), "people": poses.plain}
                lines.write(to_json(line) + "\n")
                if config.draw:
                    out.add(poses.draw(image, config.min_score))
                    entry["drawn"] = drawn.name
                entry["frames"] = number + 1
    except OSError as error:
        raise HgfastError(f"cannot write to {config.out} ({error.strerror}): choose another folder with --out") from error
    if not entry["frames"]:
        raise HgfastError(f"{video.path} is a video without frames: replace it or leave it out")
    return entry


def main() -> None:
    config = parse(PredictConfig, positional="checkpoint", rest="images", description=__doc__ or "")
    cv2.utils.logging.setLogLevel(0)  # what is wrong with a picture is said once, by us
    result = predict(config)
    done, failed = result["images"], result["failed"]
    videos = [entry for entry in done if "frames" in entry]
    if pictures := len(done) - len(videos):
        beside = ", and sheets of heatmaps beside it" if config.heatmaps else ""
        if config.draw:
            beside = f", and the pictures beside it with joints scored {config.min_score:g} or more"
        print(f"{pictures} picture{'s' * (pictures != 1)} done: {config.out / 'keypoints.json'}{beside}", flush=True)
    for entry in videos:
        places = " and ".join(str(config.out / entry[part]) for part in ("keypoints", "drawn") if part in entry)
        print(f"{entry['frames']} frames of {entry['file']} done: {places}", flush=True)
    for entry in failed:
        print(f"not done: {entry['reason']}", file=sys.stderr)
    if failed:
        raise HgfastError(f"{len(failed)} of {len(done) + len(failed)} pictures could not be done, named above")


if __name__ == "__main__":
    run(main)
