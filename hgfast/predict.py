"""Predict keypoints in images and videos with a checkpoint or an exported network.

python hgfast/predict.py exp/mpii/best.pt photo.jpg folder/ --out predictions
python hgfast/predict.py exp/mpii/best.pt photo.jpg --box 120,40,300,420
python hgfast/predict.py exp/mpii/best.int8.onnx video.mp4

Writes keypoints.json (in pixels of the upright image, 0 at the outer edge of the first pixel) and every image with the skeleton
drawn to the folder --out. Reports images that cannot be read and continues with the others. Exported networks run without torch.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.architectures import Decoder
from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError, print_warning, printable
from hgfast.fileio import video
from hgfast.fileio.files import atomic_write, format_json, prepare_folder, to_json, write_text, writing
from hgfast.fileio.video import VideoReader, VideoWriter
from hgfast.geometry import FloatArray, crop_matrices, transform_points
from hgfast.runtime.boxes import check_boxes
from hgfast.runtime.results import Poses
from hgfast.runtime.session import Session
from hgfast.runtime.sidecar import HEATMAPS, is_exported
from hgfast.skeletons import Skeleton
from hgfast.visualization.draw import (
    Image,
    add_caption,
    draw_skeleton,
    image_grid,
    normalize_heatmaps,
    overlay_heatmap,
    read_image,
    write_image,
)

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jp2", ".png", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm",
    ".pnm", ".pxm", ".hdr", ".pic", ".exr", ".sr", ".ras", ".jfif", ".pjpeg", ".pjp", ".mpo", ".heic", ".heif", ".hif",
)  # fmt: skip
"""Suffixes of the images in a folder. A file that is named directly may have any suffix."""
PREFETCH = 3  # images read ahead of the network
TILE_SIZE = 224  # side of a tile in a grid of heatmaps, pixels


class Predictor(Protocol):
    """A `Session`, or a `TorchPredictor`, which needs torch."""

    @property
    def skeleton(self) -> Skeleton: ...

    @property
    def heatmap_kind(self) -> str: ...

    @property
    def result_offset(self) -> float: ...

    def predict_crops(
        self, image: Image, boxes: FloatArray | None, padding: float
    ) -> tuple[Poses, Image, NDArray[np.float32] | None]: ...


@dataclass(kw_only=True)
class PredictConfig:
    """One prediction."""

    checkpoint: Path
    """checkpoint of training, weights of princeton-vl, bearpaw or anibali, or an exported ONNX, TorchScript or TensorRT file"""
    images: list[Path]
    """images, videos, or folders of them"""
    out: Path = Path("predictions")
    """output folder"""
    box: str | None = None
    """x,y,width,height of the person in pixels, for every image and frame; separate several by spaces; none: the whole image"""
    padding: float = 1.0
    """side of the square crop divided by the longer side of the box; 1.25 for tight boxes"""
    flip_test: bool = False
    """average with the heatmaps of the mirrored image; for networks trained with flips"""
    decoder: Decoder | None = None
    """method that converts heatmaps to points; none: the checkpoint's"""
    draw: bool = True
    """write every image with the skeleton drawn"""
    min_score: float = 0.2
    """draw only joints with at least this score; the JSON has all"""
    heatmaps: bool = False
    """write a grid of the heatmap of each joint over the crop"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; an exported network runs on the device of its runtime, on GPU N for cuda:N"""


def parse_boxes(text: str | None) -> FloatArray | None:
    """Parse `x,y,w,h x,y,w,h …` to (P, 4); None stays None."""
    if text is None:
        return None
    try:
        rows = [[float(value) for value in box.split(",")] for box in text.split()]
    except ValueError:
        rows = []
    if not rows or any(len(row) != 4 for row in rows):
        raise HgfastError(f"--box {text!r} must be x,y,width,height in pixels, such as 120,40,300,420")
    check_boxes(np.array(rows))
    return np.array(rows)


def list_files(images: Sequence[Path], out: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return the files, with folders replaced by their content and without duplicates, and unreadable folders with the reason.

    Prints how many files of a folder are left out, by their suffix.
    """
    files: list[Path] = []
    unreadable: list[tuple[Path, str]] = []
    for path in images:
        if path.is_dir():
            try:
                found = sorted(path.iterdir())
            except OSError as error:
                unreadable.append((path, f"{path} cannot be read ({error.strerror})"))
                continue
            entries = [entry for entry in found if entry.suffix.lower() in (*IMAGE_SUFFIXES, *video.VIDEO_SUFFIXES)]
            skipped = Counter(entry.suffix or "no suffix" for entry in found if entry not in set(entries) and not entry.is_dir())
            if skipped:
                counts = ", ".join(f"{number} {suffix}" for suffix, number in sorted(skipped.items()))
                print_warning(f"{path}: files that are no images or videos by their suffix are left out: {counts}")
            files += entries
            if not entries:
                unreadable.append((path, f"{path} is a folder without images"))
        else:
            files.append(path)
    files = list(dict.fromkeys(files))
    if any(file.parent.resolve() == out.resolve() for file in files):
        raise HgfastError(f"--out {out} contains input images, which might be overwritten: choose another folder")
    return files, unreadable


def prefetch(files: Sequence[Path]) -> Iterator[tuple[Path, Image | VideoReader | HgfastError]]:
    """Yield every file in order with its image, opened video or error; images are read ahead in threads."""

    def read(path: Path) -> Image | VideoReader | HgfastError:
        try:
            return VideoReader(path) if path.suffix.lower() in video.VIDEO_SUFFIXES else read_image(path)
        except HgfastError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        futures: list[Future[Image | VideoReader | HgfastError]] = [pool.submit(read, file) for file in files[:PREFETCH]]
        for index, file in enumerate(files):
            if index + PREFETCH < len(files):
                futures.append(pool.submit(read, files[index + PREFETCH]))
            yield file, futures.pop(0).result()


def output_stems(files: Sequence[Path]) -> dict[Path, str]:
    """Return the stem of each file's outputs: the file's own, with a number added if another file has the same."""
    names: dict[Path, str] = {}
    used_names: set[str] = set()
    for file in files:
        name, index = file.stem, 2
        while {name.lower(), heatmap_grid_name(name).lower()} & used_names:
            name, index = f"{file.stem}_{index}", index + 1
        used_names |= {name.lower(), heatmap_grid_name(name).lower()}
        names[file] = name
    return names


def heatmap_grid_name(name: str) -> str:
    """Return the stem of an image's heatmap grid."""
    return f"{name}_heatmaps"


def heatmap_grid(predictor: Predictor, crops: Image, heatmaps: Any, keypoints: Any, scores: Any, min_score: float) -> Image:
    """Draw for each person the crop (S, S, 3) with the skeleton at keypoints (P, K, 2) in input pixels, and a tile per joint."""
    skeleton, columns = predictor.skeleton, 6
    tiles: list[Image] = []
    for crop, maps, points, joint_scores in zip(crops, heatmaps, keypoints, scores):
        enlarged = np.asarray(cv2.resize(crop, (TILE_SIZE, TILE_SIZE), interpolation=cv2.INTER_AREA), np.uint8)
        overlay_image = draw_skeleton(enlarged, points * TILE_SIZE / crop.shape[0], skeleton, joint_scores >= min_score)
        row = [add_caption(overlay_image, f"score {min_score:g} and above")]
        for joint, heat, score in zip(skeleton.joints, normalize_heatmaps(maps, predictor.heatmap_kind), joint_scores):
            row.append(add_caption(overlay_heatmap(enlarged, heat), f"{joint} {score:.2f}"))
        tiles += row + [np.zeros_like(enlarged)] * (-len(row) % columns)
    return image_grid(tiles, columns)


def open_predictor(config: PredictConfig) -> Predictor:
    """Load a checkpoint, which requires torch, or an exported network, which must match the flags."""
    if not is_exported(config.checkpoint):
        try:
            from hgfast.checkpoints import load_model
            from hgfast.runtime.torch_predictor import TorchPredictor
            from hgfast.training.distributed import select_device
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise HgfastError(
                f"{config.checkpoint} is a checkpoint, which requires torch: pip install 'hgfast[train]', or give a network that "
                "hgfast export onnx has written"
            ) from error
        model = load_model(config.checkpoint, select_device(config.device), config.decoder)
        return TorchPredictor(model, config.flip_test)
    gpu = config.device.removeprefix("cuda:")
    session = Session(config.checkpoint, device=int(gpu) if gpu.isdigit() else 0)
    sidecar = session.sidecar
    if config.flip_test != sidecar.flip_test or (config.decoder or sidecar.decoder) != sidecar.decoder:
        raise HgfastError(
            f"{config.checkpoint} was exported {'with' if sidecar.flip_test else 'without'} a flip test and decodes by "
            f"{sidecar.decoder}: change --flip-test and --decoder accordingly, or export it again"
        )
    if config.heatmaps and HEATMAPS not in [port.name for port in sidecar.outputs]:
        raise HgfastError(f"{config.checkpoint} gives no heatmaps: export it with --outputs keypoints,heatmaps")
    return session


def predict(config: PredictConfig) -> dict[str, Any]:
    """Process all images, write the files, and return the content of keypoints.json: results and failures."""
    boxes = parse_boxes(config.box)
    if not 0 < config.padding < float("inf"):
        raise HgfastError(f"--padding {config.padding:g} must be above 0")
    if boxes is None and config.padding != 1:
        raise HgfastError("--padding requires --box: a whole image is not padded")
    predictor = open_predictor(config)
    files, unreadable = list_files(config.images, config.out)
    names = output_stems(files)
    prepare_folder(config.out, "--out")
    failed = [{"file": str(path), "reason": reason} for path, reason in unreadable]
    entries: list[dict[str, Any]] = []
    result = {
        "checkpoint": str(config.checkpoint),
        "joints": predictor.skeleton.joints,
        "edges": predictor.skeleton.edges,
        "coordinates": "pixels of the upright image, x right, y down, (0, 0) at the outer corner of the first pixel",
        "flip_test": config.flip_test,
        "images": entries,
        "failed": failed,
    }
    try:
        for file, image in tqdm(prefetch(files), total=len(files), unit="image", disable=None, leave=False):
            try:
                if isinstance(image, HgfastError):
                    raise image
                if isinstance(image, VideoReader):
                    entries.append(predict_video(config, predictor, image, boxes, names[file]))
                else:
                    entries.append(predict_image(config, predictor, file, image, boxes, names[file]))
            except HgfastError as error:
                reason = str(error) if str(file) in str(error) else f"{file}: {error}"
                failed.append({"file": str(file), "reason": reason})
    finally:  # keep the results when the run is interrupted
        if entries:
            write_text(config.out / "keypoints.json", format_json(result, ("images", "failed")), "--out")
    return result


def predict_image(
    config: PredictConfig, predictor: Predictor, file: Path, image: Image, boxes: FloatArray | None, name: str
) -> dict[str, Any]:
    """Process one image and return its entry of keypoints.json. Raises `HgfastError` if that fails."""
    poses, crops, heatmaps = predictor.predict_crops(image, boxes, config.padding)
    entry: dict[str, Any] = {"file": str(file), "width": image.shape[1], "height": image.shape[0], "people": poses.to_dict}
    if config.draw:
        entry["drawn"] = f"{name}.jpg"
        write_image(config.out / entry["drawn"], poses.draw(image, config.min_score))
    if config.heatmaps:
        side = poses.squares[:, 2]
        matrices = crop_matrices(poses.squares[:, :2] + side[:, None] / 2, side, crops.shape[1])
        input_keypoints = transform_points(poses.keypoints - predictor.result_offset, matrices)
        entry["heatmaps"] = f"{heatmap_grid_name(name)}.jpg"
        grid = heatmap_grid(predictor, crops, heatmaps, input_keypoints, poses.scores, config.min_score)
        write_image(config.out / entry["heatmaps"], grid)
    return entry


def predict_video(
    config: PredictConfig, predictor: Predictor, video: VideoReader, boxes: FloatArray | None, name: str
) -> dict[str, Any]:
    """Process a video: one line of NAME.jsonl per frame, and the annotated video. Raises `HgfastError` if that fails.

    If the video ends early, the entry has frames_promised, the number of frames that the file promises.
    """
    if config.heatmaps:
        raise HgfastError(f"{video.path} is a video: --heatmaps requires images")
    entry: dict[str, Any] = {"file": str(video.path), "frames": 0, "frames_per_s": video.fps, "keypoints": f"{name}.jsonl"}
    overlay_path = config.out / f"{name}.webm"
    bar = tqdm(video, total=video.num_frames or None, unit="frame", desc=printable(video.path.name), disable=None, leave=False)
    with (
        writing(config.out, "choose another folder with --out"),
        atomic_write(config.out / entry["keypoints"]) as temp_path,
        temp_path.open("w", encoding="utf-8") as lines,
        VideoWriter(overlay_path, video.writing_rate() if config.draw else video.fps) as out,
    ):
        for index, image in enumerate(bar):
            poses = predictor.predict_crops(image, boxes, config.padding)[0]
            line = {"frame": index, "time_s": round(video.time_s, 4), "people": poses.to_dict}
            lines.write(to_json(line) + "\n")
            if config.draw:
                out.write(poses.draw(image, config.min_score), video.time_s)
                entry["drawn"] = overlay_path.name
            entry["frames"] = index + 1
        if not entry["frames"]:
            raise HgfastError(
                f"{video.path} has no frame that this build of OpenCV can decode (codec {video.codec}): convert it, such as with "
                "'ffmpeg -i IN -c:v libx264 OUT.mp4', or leave it out"
            )
    if video.missing_end:
        entry["frames_promised"] = video.num_frames
    return entry


def main() -> None:
    config = parse(PredictConfig, positional="checkpoint", variadic="images", description=__doc__ or "")
    cv2.utils.logging.setLogLevel(0)  # hgfast reports errors itself
    result = predict(config)
    entries, failed = result["images"], result["failed"]
    videos = [entry for entry in entries if "frames" in entry]
    if num_images := len(entries) - len(videos):
        suffix = ", and heatmap grids in the same folder" if config.heatmaps else ""
        if config.draw:
            suffix = f", and the annotated images in the same folder (joints with a score of {config.min_score:g} or more)"
        print(f"{num_images} image{'s' * (num_images != 1)} done: {printable(config.out / 'keypoints.json')}{suffix}", flush=True)
    for entry in videos:
        output_files = " and ".join(str(config.out / entry[part]) for part in ("keypoints", "drawn") if part in entry)
        print(f"{entry['frames']} frames of {printable(entry['file'])} done: {printable(output_files)}", flush=True)
    broken = [entry for entry in videos if "frames_promised" in entry]
    for entry in broken:
        print_warning(
            f"{entry['file']} is cut short or damaged: {entry['frames']} of the {entry['frames_promised']} frames that it "
            "promises could be read, and are kept"
        )
    for entry in failed:
        print(f"failed: {printable(entry['reason'])}", file=sys.stderr)
    if failed:
        raise HgfastError(f"{len(failed)} of {len(entries) + len(failed)} images failed, see above")
    if broken:
        raise HgfastError(f"{len(broken)} of {len(videos)} videos are incomplete, see above: copy or download them again")


if __name__ == "__main__":
    run_main(main)
