"""Kinds of files that hgfast reads: valid files of each, their mutation, and their reader.

The project's own writers create the valid files; real ones are added if the research data are next to the checkout.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import torch
import yaml
from PIL import Image
from scipy.io import savemat

from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.bench.scoring.ground_truth import GroundTruth, is_detections, is_mpii_h5, open_ground_truth, read_mpii_h5
from hgfast.bench.scoring.predictions import read_predictions
from hgfast.checkpoints import build_model
from hgfast.cli import parse
from hgfast.config import AugmentConfig, Config, DataConfig, LoadingConfig
from hgfast.errors import HgfastError
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.checks.images import decode
from hgfast.pipelines.checks.result import CheckRecord, exclude_bad_images, file_stamp, read_result, write_result
from hgfast.pipelines.crop_cache.builder import build as build_cache
from hgfast.pipelines.crop_cache.builder import use_cache
from hgfast.pipelines.loaders.dali import DaliLoader
from hgfast.pipelines.loaders.opencv import OpenCVLoader
from hgfast.pipelines.readers.coco import CocoOptions, read_coco
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.readers.mpii_mat import read_mpii_mat, valid_names, valid_people
from hgfast.pipelines.readers.skeleton_yaml import read_skeleton
from hgfast.pipelines.samples import Samples
from hgfast.pipelines.synthetic import generate_coco, generate_freihand, generate_mpii
from hgfast.skeletons import BODY16, HAND21
from hgfast.visualization.draw import read_image
from tests.foreign_nets import BearpawNet, PrincetonNet, prefixed_state, with_random_statistics
from tests.robustness import mutations
from tests.robustness.resource_monitor import outcome_of

SHARED = Path(__file__).parents[3] / "shared" / "fixtures"
Mutation = Callable[[bytes, Sequence[bytes], random.Random], bytes]
CACHE_AUGMENT = AugmentConfig()


@dataclass(frozen=True)
class FuzzTarget:
    """A kind of file.

    originals: patterns of valid files in a folder of `prepare`. broken_path: path of the broken file in it. mutate: returns a
    broken version of a file, given the others. open: reads a file; any exception except `HgfastError` is a bug.
    """

    originals: Sequence[str]
    broken_path: str
    mutate: Mutation
    open: Callable[[Path, Path, random.Random], object]


# ---- valid files ----


def prepare(folder: Path) -> Path:
    """Write a valid data set of each layout, and realistic files of every other kind, to a new folder; returns the folder."""
    folder.mkdir()
    generate_freihand(folder / "hands", 6, seed=1, workers=1)
    generate_mpii(folder / "people", 4, seed=2, valid=3, workers=1)
    generate_coco(folder / "coco", 1, seed=2, valid=3, workers=1)
    originals = folder / "originals"
    originals.mkdir()
    for name in ("K", "xyz"):
        shutil.copyfile(folder / f"hands/training_{name}.json", originals / f"{name}.json")
    shutil.copyfile(folder / "people/annot/valid.h5", originals / "valid.h5")
    coco = json.loads((folder / "coco/val.json").read_text())
    coco["annotations"] = [{**annotation, "iscrowd": 0} for annotation in coco["annotations"]]
    coco["categories"].append({"id": 2, "name": "dog"})
    (originals / "coco.json").write_text(json.dumps(coco))
    people = annotations_by_image(originals / "valid.h5")
    for name, compressed in (("plain.mat", False), ("packed.mat", True)):
        savemat(originals / name, {"RELEASE": release(people), "extra": np.eye(3)}, do_compression=compressed)
    (originals / "names.txt").write_text("".join(f"{name}\n" for name, _ in people))
    write_detections(originals / "valid.h5", originals / "detections.mat")
    Config(dataset="coco", annotations=Path("a.json"), split_fractions=[0.5, 0.5]).write_yaml(originals / "config.yaml")
    skeleton = {"name": "tool", "joints": ["tip", "left_grip", "right_grip"], "edges": [["tip", "left_grip"]]}
    more = {"flip_pairs": [["left_grip", "right_grip"]], "groups": {"grips": ["left_grip"]}, "colors": [[0, 255, 0]]}
    (originals / "skeleton.yaml").write_text(yaml.safe_dump(skeleton | more))
    write_images(originals)
    write_networks(originals)
    write_predictions(originals)
    write_check(folder)
    for source in real_files():
        shutil.copyfile(source, originals / f"real-{source.name}")
    return folder


def real_files() -> list[Path]:
    """Return small files of the research data next to the checkout."""
    annotations = (
        "freihand_coco/keypoints.json",
        "FreiHAND_pub_v2_mini/training_K.json",
        "FreiHAND_pub_v2_mini/training_xyz.json",
    )
    images = ("freihand_coco/images/00000355.jpg", "lspet_coco/images/im00001.jpg")
    return [SHARED / name for name in (*annotations, *images) if (SHARED / name).is_file()]


def structs(elements: Sequence[dict[str, Any]]) -> Any:
    """Return a MATLAB struct array (1, N) whose elements share their fields."""
    array = np.empty((1, len(elements)), [(name, object) for name in elements[0]])
    for number, element in enumerate(elements):
        for name, value in element.items():
            array[0, number][name] = value
    return array


def annotations_by_image(*paths: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the people of h5 files grouped by image and ordered by their numbers, with the fields of MPII's original file."""
    images: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        with h5py.File(path) as file:
            rows = [file[name][()] for name in ("imgname", "part", "center", "scale", "person", "normalize")]
        for name, part, center, scale, person, head in zip(*rows):
            joints = [{"x": x, "y": y, "id": float(joint), "is_visible": "1"} for joint, (x, y) in enumerate(part) if x or y]
            people = images.setdefault(name.decode(), [])
            empty = {field: np.zeros((0, 0)) for field in ("x1", "y1", "x2", "y2", "scale", "objpos", "annopoints")}
            people += [empty] * (int(person) - len(people))
            people.append(
                {
                    **{"x1": 10.0, "y1": 10.0, "x2": 10 + float(head), "y2": 10 + float(head) * 0.8 / 0.6},
                    "scale": scale / 1.25,
                    "objpos": structs([{"x": center[0], "y": center[1] - 15 * scale / 1.25}]),
                    "annopoints": structs([{"point": structs(joints)}]),
                }
            )
    return list(images.items())


def release(people: Sequence[tuple[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Return MPII's struct RELEASE without unused fields."""
    single = np.empty((len(people), 1), object)
    single[:, 0] = [np.array([[1.0]])] * len(people)
    annolist = structs([{"image": structs([{"name": name}]), "annorect": structs(each)} for name, each in people])
    return {"annolist": annolist, "img_train": np.ones((1, len(people)), np.uint8), "single_person": single}


def write_detections(source: Path, target: Path) -> None:
    """Write the ground truth of an h5 file, and predictions, in the layout of detections_our_format.mat."""
    with h5py.File(source) as file:
        part, visible = file["part"][()], file["visible"][()]
    boxes = np.repeat(np.array([[10.0, 20.0], [40.0, 60.0]])[..., None], len(part), 2)
    points = part.transpose(1, 2, 0)
    truth = {"pos_gt_src": points, "jnt_missing": (visible.T == 0) * 1.0, "headboxes_src": boxes}
    savemat(target, {**truth, "pos_pred_src": points + 1})


def write_images(folder: Path) -> None:
    """Write a small image in every format that OpenCV writes, and in other variants of JPEG and PNG."""
    columns, rows = np.arange(64), np.arange(48)[:, None]
    rgb = np.stack(np.broadcast_arrays(columns * 4, rows * 5, 90 + 0 * columns * rows), -1).astype(np.uint8)
    for ending in (".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm", ".jp2", ".ras", ".gif", ".hdr"):
        image = rgb.astype(np.float32) / 255 if ending == ".hdr" else rgb
        cv2.imwrite(str(folder / f"image{ending}"), image)
    Image.fromarray(rgb).save(folder / "image-progressive.jpg", progressive=True)
    Image.fromarray(rgb).convert("CMYK").save(folder / "image-cmyk.jpg")
    cv2.imwrite(str(folder / "image-deep.png"), rgb.astype(np.uint16) * 257)


def write_networks(folder: Path) -> None:
    """Write checkpoints of hgfast and of both foreign families, in PyTorch's current and in its legacy format."""
    torch.manual_seed(0)
    ours = build_model(PRESETS["tiny"], Meta(HAND21, Normalization(), 64, "logits", "dark", 0.0))
    torch.save(checkpoints.model_state(ours), folder / "net-ours.pt")
    princeton, bearpaw = (
        with_random_statistics(PrincetonNet(1, 8, 16, depth=1)),
        with_random_statistics(BearpawNet(1, 4, 16, depth=1, inplanes=8)),
    )
    torch.save({"state_dict": prefixed_state(princeton, "model.module."), "epoch": 3}, folder / "net-princeton.pt")
    content = {"state_dict": prefixed_state(bearpaw, "module."), "arch": "hg"}
    torch.save(content, folder / "net-bearpaw.pt", _use_new_zipfile_serialization=False)


def write_predictions(folder: Path) -> None:
    """Write predictions for valid.h5 in every format."""
    points = read_mpii_h5(folder / "valid.h5").points
    (folder / "points.json").write_text(json.dumps(points.tolist()))
    samples = [{"row": row, "keypoints": each.tolist()} for row, each in enumerate(points)]
    described = {"dataset": "mpii", "joints": list(BODY16.joints), "pixel_offset": -0.5, "samples": samples}
    (folder / "points-described.json").write_text(json.dumps(described))
    np.save(folder / "points.npy", points)
    np.savez(folder / "points.npz", preds=points)
    np.savez_compressed(folder / "points-packed.npz", preds=points)
    savemat(folder / "points.mat", {"preds": points, "names": "x"}, do_compression=True)
    with h5py.File(folder / "points.h5", "w") as file:
        file.create_dataset("preds", data=points, chunks=True, compression="gzip")


def write_check(folder: Path) -> None:
    """Write the result of a file check of the people."""
    samples = read_mpii(folder / "people", "valid")
    first, second = sorted({*samples.paths.tolist()})[:2]
    result = CheckRecord("dali", report={"bad": 1})
    result.bad[f"images/{Path(first).name}"] = (file_stamp(first), "is empty")
    for path in (first, second):
        state = file_stamp(path)
        assert state is not None
        result.add(f"images/{Path(path).name}", state, (640, 480))
    write_result(result, folder / "originals/check.json")


# ---- readers ----


def open_coco(path: Path, folder: Path, rng: random.Random) -> object:
    real = path.read_bytes()[:4000].find(b"00000355") >= 0 and SHARED.is_dir()
    images = SHARED / "freihand_coco/images" if real else folder / "coco/images"
    normalize = rng.choice(("box", "box", "left_wrist,right_wrist"))
    return read_coco(path, images, CocoOptions(normalize=normalize, skip_missing=rng.random() < 0.5))


def open_hands(path: Path, folder: Path, rng: random.Random) -> object:
    return read_freihand(folder / "hands", rng.choice(("train", "all")), skip_missing=True)


def open_people(path: Path, folder: Path, rng: random.Random) -> object:
    choice = rng.randrange(4)
    if choice == 0:
        return valid_names(path), valid_people(path)
    if choice == 1:
        return read_mpii_h5(path) if is_mpii_h5(path) else None
    return read_mpii(folder / "people", "valid", skip_missing=rng.random() < 0.5)


def open_release(path: Path, folder: Path, rng: random.Random) -> object:
    valid = valid_names(folder / "originals/names.txt")
    return read_mpii_mat(path, folder / "people/images", "valid", valid, True, single_person=rng.random() < 0.3)


def open_names(path: Path, folder: Path, rng: random.Random) -> object:
    return read_mpii_mat(folder / "originals/packed.mat", folder / "people/images", "valid", valid_names(path), True)


def open_detections(path: Path, folder: Path, rng: random.Random) -> object:
    is_detections(path)
    return open_ground_truth(DataConfig(dataset="mpii", annotations=path), "valid")


def open_config(path: Path, folder: Path, rng: random.Random) -> object:
    config = parse(Config, ["--config", str(path)], flag_aliases={})
    config.validate()
    return config.model.make_architecture()


def open_skeleton(path: Path, folder: Path, rng: random.Random) -> object:
    return read_skeleton(path)


def open_image(path: Path, folder: Path, rng: random.Random) -> object:
    choice = rng.random()
    if choice < 0.7:
        return read_image(path)
    if choice < 0.85:
        outcomes = [dict(decode([str(path)], loader, 1))[str(path)] for loader in ("dali", "opencv")]  # type: ignore[arg-type]
        if all(isinstance(outcome, str) for outcome in outcomes):
            raise HgfastError("no decoder can read it")
        return outcomes
    paths = [str(path), *(str(folder / f"originals/image.{ending}") for ending in ("jpg", "png"))]
    plan = BatchPlan(make_samples(paths), 32, len(paths), augment=AugmentConfig(), seed=rng.randrange(99))
    cpu, plain = torch.device("cpu"), Normalization()
    options = LoadingConfig(storage_timeout=0)
    loader = (
        DaliLoader(plan, cpu, 1, plain, options=options) if choice < 0.93 else OpenCVLoader(plan, cpu, 0, plain, options=options)
    )
    batch = next(iter(loader.epoch(0)))
    assert batch.images.isfinite().all() and batch.images.shape[2:] == (32, 32)
    if plan.batch(0, 0).is_replacement.any():
        raise HgfastError("it was replaced by another image")
    return batch


def make_samples(paths: Sequence[str]) -> Samples:
    """Return samples with one annotation of a hand per image."""
    n = len(paths)
    return Samples(
        paths=np.array(paths),
        center=np.full((n, 2), 24.0),
        side=np.full(n, 40.0),
        keypoints=np.full((n, 21, 2), 20.0),
        labeled=np.ones((n, 21), bool),
        reference=np.ones(n),
        group=np.arange(n),
        row=np.arange(n),
        skeleton=HAND21,
        pixel_offset=0.0,
    )


def open_predictor(path: Path, folder: Path, rng: random.Random) -> object:
    model = checkpoints.load_model(path)
    with torch.inference_mode():
        return model(torch.zeros(1, 3, model.arch.input_size, model.arch.input_size)) if model.arch.input_size <= 256 else model


def open_predictions(path: Path, folder: Path, rng: random.Random) -> object:
    points, sample_indices = read_predictions(path, load_truth(folder))
    assert points.shape[1:] == (16, 2) and len(points) == len(sample_indices)
    return points


def load_truth(folder: Path) -> GroundTruth:
    return read_mpii_h5(folder / "originals/valid.h5")


def open_cache(path: Path, folder: Path, rng: random.Random) -> object:
    return use_cache(read_mpii(folder / "people", "valid"), folder / "crops", CACHE_AUGMENT, 64)


def open_check(path: Path, folder: Path, rng: random.Random) -> object:
    read_result(path)
    return exclude_bad_images(
        read_mpii(folder / "people", "valid"), DataConfig(dataset="mpii", data=folder / "people", checked=path)
    )


def mutate_image(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Mutate the header, which contains the size, as often as other bytes."""
    return mutations.mutate_any_bytes(data, others, rng, rng.choice((None, 64, 600)))


def mutate_text(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return mutations.mutate_any_bytes(data, others, rng)


def mutate_predictions(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Mutate predictions by their format."""
    if data.startswith(b"MATLAB"):
        return mutations.mutate_mat(data, others, rng)
    if data.startswith(b"\x89HDF"):
        return mutations.mutate_h5(data, others, rng)
    if data.startswith((b"PK", b"\x93")):
        return mutations.mutate_numpy(data, others, rng)
    return mutations.mutate_json(data, others, rng)


FUZZ_TARGETS = {
    "coco": FuzzTarget(["originals/coco.json", "originals/real-k*.json"], "broken/points.json", mutations.mutate_json, open_coco),
    "freihand xyz": FuzzTarget(["originals/xyz.json"], "hands/training_xyz.json", mutations.mutate_json, open_hands),
    "freihand K": FuzzTarget(["originals/K.json"], "hands/training_K.json", mutations.mutate_json, open_hands),
    "mpii h5": FuzzTarget(["originals/valid.h5"], "people/annot/valid.h5", mutations.mutate_h5, open_people),
    "mpii mat": FuzzTarget(
        ["originals/p*ed.mat", "originals/plain.mat"], "broken/release.mat", mutations.mutate_mat, open_release
    ),
    "mpii names": FuzzTarget(["originals/names.txt"], "broken/names.txt", mutate_text, open_names),
    "detections mat": FuzzTarget(["originals/detections.mat"], "broken/detections.mat", mutations.mutate_mat, open_detections),
    "config": FuzzTarget(["originals/config.yaml"], "broken/config.yaml", mutations.mutate_yaml, open_config),
    "skeleton": FuzzTarget(["originals/skeleton.yaml"], "broken/skeleton.yaml", mutations.mutate_yaml, open_skeleton),
    "image": FuzzTarget(["originals/image*", "originals/real-*.jpg"], "broken/image.jpg", mutate_image, open_image),
    "checkpoint": FuzzTarget(["originals/net-*.pt"], "broken/net.pt", mutations.mutate_checkpoint, open_predictor),
    "predictions": FuzzTarget(["originals/points*"], "broken/points.any", mutate_predictions, open_predictions),
    "crop cache": FuzzTarget(["originals/index.npz"], "crops/index.npz", mutations.mutate_numpy, open_cache),
    "file check": FuzzTarget(["originals/check.json"], "broken/check.json", mutations.mutate_json, open_check),
}
"""Kinds of files by their names in tables."""


def start(prepared: Path, seed: int) -> Callable[[int], str]:
    """Return the function that runs a case; every process has its own folder."""
    cv2.utils.logging.setLogLevel(0)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    folder = prepared.with_name(f"{prepared.name}-{os.getpid()}")
    shutil.copytree(prepared, folder, symlinks=True)
    (folder / "broken").mkdir(exist_ok=True)
    build_cache(read_mpii(folder / "people", "valid"), folder / "crops", CACHE_AUGMENT, 64, workers=1)  # contains the folder name
    shutil.copyfile(folder / "crops/index.npz", folder / "originals/index.npz")
    originals = {
        name: [file.read_bytes() for pattern in target.originals for file in sorted(folder.glob(pattern))]
        for name, target in FUZZ_TARGETS.items()
    }
    return partial(run_case, folder, originals, seed)


def target_name(number: int) -> str:
    """Return the kind of file of a case."""
    return list(FUZZ_TARGETS)[number % len(FUZZ_TARGETS)]


def run_case(folder: Path, originals: dict[str, list[bytes]], seed: int, number: int) -> str:
    """Break a file and open it; return "answered" or "refused"."""
    name = target_name(number)
    target, files = FUZZ_TARGETS[name], originals[name]
    rng = random.Random(f"{seed} {number}")  # noqa: S311  (not cryptographic)
    path = folder / target.broken_path
    path.write_bytes(target.mutate(rng.choice(files), files, rng))
    return outcome_of(lambda: target.open(path, folder, rng))
