"""The kinds of files that hgfast reads: valid ones, how each is broken, and what opens it.

Valid files are written by the project's own writers, and real ones are added where they lie beside the checkout.
What may enter: a kind's originals, its ways to be broken, and its readers. Nothing that counts or watches.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
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

sys.path.append(str(Path(__file__).parents[2] / "bench"))  # where Python looks for the modules beside a script
sys.path.append(str(Path(__file__).parents[1] / "hgfast"))
sys.path.append(str(Path(__file__).parent))

import mutations
from foreign_nets import BearpawNet, SeedNet, lived_in, prefixed
from pckh_predictions import read_predictions
from pckh_truth import Truth, from_h5, is_detections, is_mpii_h5, open_truth
from watched import ended

from hgfast import checkpoints
from hgfast.checkpoints import build
from hgfast.cli import parse
from hgfast.config import AugmentConfig, Config, DataChoice, LoadingConfig
from hgfast.draw import read_image
from hgfast.errors import HgfastError
from hgfast.model import PRESETS, Meta
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import BODY16, HAND21
from pipelines.cache import build as build_cache
from pipelines.cache import cached
from pipelines.check_pictures import decode
from pipelines.check_result import Result, read_result, state_of, without_bad, write_result
from pipelines.coco import read_coco
from pipelines.dali import DaliLoader
from pipelines.freihand import read_freihand
from pipelines.mpii import read_mpii
from pipelines.mpii_mat import read_mpii_mat, valid_names, valid_people
from pipelines.plain import TorchLoader
from pipelines.plan import Plan
from pipelines.samples import Samples
from pipelines.skeleton_files import read_skeleton
from pipelines.synthetic import draw_freihand, draw_mpii

SHARED = Path(__file__).parents[3] / "shared" / "fixtures"
Spoil = Callable[[bytes, Sequence[bytes], random.Random], bytes]
CACHED = AugmentConfig()


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    originals: where valid ones are, in a folder of `prepare`. place: where a broken one is put, in it. spoil: one of them, with
    the others, broken. open: a file, read as it would be; anything but `HgfastError` that it raises is a bug.
    """

    originals: Sequence[str]
    place: str
    spoil: Spoil
    open: Callable[[Path, Path, random.Random], object]


# ---- valid files ----


def prepare(folder: Path) -> None:
    """One valid data set of each layout, and files of every other kind, which differ little from what people have."""
    draw_freihand(folder / "hands", 6, seed=1, workers=1, progress=False)
    draw_mpii(folder / "people", 4, seed=2, valid=3, workers=1, progress=False)
    originals = folder / "originals"
    originals.mkdir()
    for name in ("K", "xyz"):
        shutil.copyfile(folder / f"hands/training_{name}.json", originals / f"{name}.json")
    shutil.copyfile(folder / "people/annot/valid.h5", originals / "valid.h5")
    (originals / "coco.json").write_text(json.dumps(coco_of(folder / "people")))
    people = pictures_of(originals / "valid.h5")
    for name, compressed in (("plain.mat", False), ("packed.mat", True)):
        savemat(originals / name, {"RELEASE": release(people), "extra": np.eye(3)}, do_compression=compressed)
    (originals / "names.txt").write_text("".join(f"{name}\n" for name, _ in people))
    detections(originals / "valid.h5", originals / "detections.mat")
    Config(dataset="coco", annotations=Path("a.json"), shares=[0.5, 0.5]).write(originals / "config.yaml")
    skeleton = {"name": "tool", "joints": ["tip", "left_grip", "right_grip"], "edges": [["tip", "left_grip"]]}
    more = {"flip_pairs": [["left_grip", "right_grip"]], "groups": {"grips": ["left_grip"]}, "colours": [[0, 255, 0]]}
    (originals / "skeleton.yaml").write_text(yaml.safe_dump(skeleton | more))
    pictures(originals)
    networks(originals)
    predictions(originals)
    check(folder)
    for source in real_files():
        shutil.copyfile(source, originals / f"real-{source.name}")


def real_files() -> list[Path]:
    """Of the research data beside the checkout, what is small enough to be read thousands of times."""
    wanted = ("freihand_coco/keypoints.json", "FreiHAND_pub_v2_mini/training_K.json", "FreiHAND_pub_v2_mini/training_xyz.json")
    pictures = ("freihand_coco/images/00000355.jpg", "lspet_coco/images/im00001.jpg")
    return [SHARED / name for name in (*wanted, *pictures) if (SHARED / name).is_file()]


def coco_of(people: Path) -> dict[str, Any]:
    """A data set in MPII's layout as COCO keypoints."""
    samples = read_mpii(people, "valid")
    names = [Path(path).name for path in samples.paths]
    images = [{"id": number, "file_name": name, "width": 640, "height": 480} for number, name in enumerate(dict.fromkeys(names))]
    number = {image["file_name"]: image["id"] for image in images}
    category = {"id": 1, "name": "person", "keypoints": list(BODY16.joints), "skeleton": [[1, 2], [2, 3]]}
    annotations = [
        {
            "id": row,
            "image_id": number[name],
            "category_id": 1,
            "iscrowd": 0,
            "num_keypoints": int(labelled.sum()),
            "bbox": [float(centre[0] - side / 2), float(centre[1] - side / 2), float(side), float(side)],
            "keypoints": np.column_stack([points, 2 * labelled]).ravel().tolist(),
        }
        for row, (name, centre, side, points, labelled) in enumerate(
            zip(names, samples.centre, samples.side, samples.keypoints, samples.labelled)
        )
    ]
    return {"images": images, "annotations": annotations, "categories": [category, {"id": 2, "name": "dog"}]}


def structs(elements: Sequence[dict[str, Any]]) -> Any:
    """A MATLAB struct array (1, N) whose elements share their fields."""
    array = np.empty((1, len(elements)), [(name, object) for name in elements[0]])
    for number, element in enumerate(elements):
        for name, value in element.items():
            array[0, number][name] = value
    return array


def pictures_of(path: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """The people of an h5 file by their pictures, in the order of their numbers, as the original file has them."""
    with h5py.File(path) as file:
        rows = {name: file[name][()] for name in file}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, part, centre, scale, person in zip(rows["imgname"], rows["part"], rows["center"], rows["scale"], rows["person"]):
        joints = [{"x": x, "y": y, "id": float(joint), "is_visible": "1"} for joint, (x, y) in enumerate(part) if x or y]
        people = found.setdefault(name.decode(), [])
        empty = {name: np.zeros((0, 0)) for name in ("x1", "y1", "x2", "y2", "scale", "objpos", "annopoints")}
        people += [empty] * (int(person) - len(people))
        people.append(
            {
                **{"x1": 10.0, "y1": 20.0, "x2": 40.0, "y2": 60.0, "scale": scale / 1.25},
                "objpos": structs([{"x": centre[0], "y": centre[1]}]),
                "annopoints": structs([{"point": structs(joints)}]),
            }
        )
    return list(found.items())


def release(people: Sequence[tuple[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """MPII's struct RELEASE, without the fields that nobody reads."""
    single = np.empty((len(people), 1), object)
    single[:, 0] = [np.array([[1.0]])] * len(people)
    annolist = structs([{"image": structs([{"name": name}]), "annorect": structs(each)} for name, each in people])
    return {"annolist": annolist, "img_train": np.ones((1, len(people)), np.uint8), "single_person": single}


def detections(source: Path, target: Path) -> None:
    """detections_our_format.mat's ground truth, with predictions beside it."""
    with h5py.File(source) as file:
        part, visible = file["part"][()], file["visible"][()]
    boxes = np.repeat(np.array([[10.0, 20.0], [40.0, 60.0]])[..., None], len(part), 2)
    points = part.transpose(1, 2, 0)
    truth = {"pos_gt_src": points, "jnt_missing": (visible.T == 0) * 1.0, "headboxes_src": boxes}
    savemat(target, {**truth, "pos_pred_src": points + 1})


def pictures(folder: Path) -> None:
    """A small picture in every format that OpenCV writes, and in those that cameras and browsers make."""
    columns, rows = np.arange(64), np.arange(48)[:, None]
    rgb = np.stack(np.broadcast_arrays(columns * 4, rows * 5, 90 + 0 * columns * rows), -1).astype(np.uint8)
    for ending in (".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm", ".jp2", ".ras", ".gif", ".hdr"):
        picture = rgb.astype(np.float32) / 255 if ending == ".hdr" else rgb
        cv2.imwrite(str(folder / f"picture{ending}"), picture)
    Image.fromarray(rgb).save(folder / "picture-progressive.jpg", progressive=True)
    Image.fromarray(rgb).convert("CMYK").save(folder / "picture-cmyk.jpg")
    cv2.imwrite(str(folder / "picture-deep.png"), rgb.astype(np.uint16) * 257)


def networks(folder: Path) -> None:
    """Checkpoints of hgfast's and of both foreign families, in PyTorch's format of today and in the one before."""
    torch.manual_seed(0)
    ours = build(PRESETS["tiny"], Meta(HAND21, Preprocessing(), 64, "logits", "dark", 0.0))
    torch.save(checkpoints.describe(ours), folder / "net-ours.pt")
    seed, bearpaw = lived_in(SeedNet(1, 8, 16, depth=1)), lived_in(BearpawNet(1, 4, 16, depth=1, inplanes=8))
    torch.save({"state_dict": prefixed(seed, "model.module."), "epoch": 3}, folder / "net-seed.pt")
    content = {"state_dict": prefixed(bearpaw, "module."), "arch": "hg"}
    torch.save(content, folder / "net-bearpaw.pt", _use_new_zipfile_serialization=False)


def predictions(folder: Path) -> None:
    """Predictions for valid.h5 in every format."""
    points = from_h5(folder / "valid.h5").points
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


def check(folder: Path) -> None:
    """The result of a file check of the people."""
    samples = read_mpii(folder / "people", "valid")
    first, second = sorted({*samples.paths.tolist()})[:2]
    result = Result("dali", report={"bad": 1})
    result.bad[f"images/{Path(first).name}"] = (state_of(first), "is empty")
    for path in (first, second):
        state = state_of(path)
        assert state is not None
        result.remember(f"images/{Path(path).name}", state, (640, 480))
    write_result(result, folder / "originals/check.json")


# ---- what opens them ----


def open_coco(path: Path, folder: Path, rng: random.Random) -> object:
    real = path.read_bytes()[:4000].find(b"00000355") >= 0 and SHARED.is_dir()
    images = SHARED / "freihand_coco/images" if real else folder / "people/images"
    normalise = rng.choice(("box", "box", "left_hip,right_hip"))
    return read_coco(path, images, normalise=normalise, skip_missing=rng.random() < 0.5)


def open_hands(path: Path, folder: Path, rng: random.Random) -> object:
    return read_freihand(folder / "hands", rng.choice(("train", "all")), skip_missing=True)


def open_people(path: Path, folder: Path, rng: random.Random) -> object:
    way = rng.randrange(4)
    if way == 0:
        return valid_names(path), valid_people(path)
    if way == 1:
        return from_h5(path) if is_mpii_h5(path) else None
    return read_mpii(folder / "people", "valid", skip_missing=rng.random() < 0.5)


def open_release(path: Path, folder: Path, rng: random.Random) -> object:
    valid = valid_names(folder / "originals/names.txt")
    return read_mpii_mat(path, folder / "people/images", "valid", valid, True, single_person=rng.random() < 0.3)


def open_names(path: Path, folder: Path, rng: random.Random) -> object:
    return read_mpii_mat(folder / "originals/packed.mat", folder / "people/images", "valid", valid_names(path), True)


def open_detections(path: Path, folder: Path, rng: random.Random) -> object:
    is_detections(path)
    return open_truth(DataChoice(dataset="mpii", annotations=path), "valid")


def open_config(path: Path, folder: Path, rng: random.Random) -> object:
    config = parse(Config, ["--config", str(path)], short={})
    config.validate()
    return config.model.architecture()


def open_skeleton(path: Path, folder: Path, rng: random.Random) -> object:
    return read_skeleton(path)


def open_picture(path: Path, folder: Path, rng: random.Random) -> object:
    way = rng.random()
    if way < 0.7:
        return read_image(path)
    if way < 0.85:
        outcomes = [dict(decode([str(path)], loader, 1))[str(path)] for loader in ("dali", "torch")]  # type: ignore[arg-type]
        if all(isinstance(outcome, str) for outcome in outcomes):
            raise HgfastError("no decoder takes it")
        return outcomes
    paths = [str(path), *(str(folder / f"originals/picture.{ending}") for ending in ("jpg", "png"))]
    plan = Plan(samples_of(paths), 32, len(paths), augment=AugmentConfig(), seed=rng.randrange(99))
    cpu, plain = torch.device("cpu"), Preprocessing()
    options = LoadingConfig(wait_minutes=0)
    loader = DaliLoader(plan, cpu, 1, plain, options=options) if way < 0.93 else TorchLoader(plan, cpu, 0, plain, options=options)
    batch = next(iter(loader.epoch(0)))
    assert batch.images.isfinite().all() and batch.images.shape[2:] == (32, 32)
    if plan.batch(0, 0).stand_in.any():
        raise HgfastError("another picture took its place")
    return batch


def samples_of(paths: Sequence[str]) -> Samples:
    n = len(paths)
    return Samples(
        paths=np.array(paths),
        centre=np.full((n, 2), 24.0),
        side=np.full(n, 40.0),
        keypoints=np.full((n, 21, 2), 20.0),
        labelled=np.ones((n, 21), bool),
        reference=np.ones(n),
        group=np.arange(n),
        row=np.arange(n),
        skeleton=HAND21,
        pixel_offset=0.0,
    )


def open_network(path: Path, folder: Path, rng: random.Random) -> object:
    model = checkpoints.load_model(path)
    with torch.inference_mode():
        return model(torch.zeros(1, 3, model.arch.input_size, model.arch.input_size)) if model.arch.input_size <= 256 else model


def open_predictions(path: Path, folder: Path, rng: random.Random) -> object:
    points, places = read_predictions(path, truth_of(folder))
    assert points.shape[1:] == (16, 2) and len(points) == len(places)
    return points


def truth_of(folder: Path) -> Truth:
    return from_h5(folder / "originals/valid.h5")


def open_cache(path: Path, folder: Path, rng: random.Random) -> object:
    return cached(read_mpii(folder / "people", "valid"), folder / "crops", CACHED, 64)


def open_check(path: Path, folder: Path, rng: random.Random) -> object:
    read_result(path)
    return without_bad(read_mpii(folder / "people", "valid"), DataChoice(dataset="mpii", data=folder / "people", checked=path))


def whole_or_headers(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Where a picture's size is said, as often as anywhere else."""
    return mutations.any_bytes(data, others, rng, rng.choice((None, 64, 600)))


def text(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return mutations.any_bytes(data, others, rng)


def by_ending(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Predictions, by what they are."""
    if data.startswith(b"MATLAB"):
        return mutations.broken_mat(data, others, rng)
    if data.startswith(b"\x89HDF"):
        return mutations.broken_h5(data, others, rng)
    if data.startswith((b"PK", b"\x93")):
        return mutations.broken_numpy(data, others, rng)
    return mutations.broken_json(data, others, rng)


KINDS = {
    "coco": Kind(["originals/coco.json", "originals/real-k*.json"], "broken/points.json", mutations.broken_json, open_coco),
    "freihand xyz": Kind(["originals/xyz.json"], "hands/training_xyz.json", mutations.broken_json, open_hands),
    "freihand K": Kind(["originals/K.json"], "hands/training_K.json", mutations.broken_json, open_hands),
    "mpii h5": Kind(["originals/valid.h5"], "people/annot/valid.h5", mutations.broken_h5, open_people),
    "mpii mat": Kind(["originals/p*ed.mat", "originals/plain.mat"], "broken/release.mat", mutations.broken_mat, open_release),
    "mpii names": Kind(["originals/names.txt"], "broken/names.txt", text, open_names),
    "detections mat": Kind(["originals/detections.mat"], "broken/detections.mat", mutations.broken_mat, open_detections),
    "config": Kind(["originals/config.yaml"], "broken/config.yaml", mutations.broken_yaml, open_config),
    "skeleton": Kind(["originals/skeleton.yaml"], "broken/skeleton.yaml", mutations.broken_yaml, open_skeleton),
    "picture": Kind(["originals/picture*", "originals/real-*.jpg"], "broken/picture.jpg", whole_or_headers, open_picture),
    "checkpoint": Kind(["originals/net-*.pt"], "broken/net.pt", mutations.broken_checkpoint, open_network),
    "predictions": Kind(["originals/points*"], "broken/points.any", by_ending, open_predictions),
    "crop cache": Kind(["originals/index.npz"], "crops/index.npz", mutations.broken_numpy, open_cache),
    "file check": Kind(["originals/check.json"], "broken/check.json", mutations.broken_json, open_check),
}
"""By the names that tables give them."""


def start(prepared: Path, seed: int) -> Callable[[int], str]:
    """What a process does with a case: in a folder of its own, so that several may be at work."""
    cv2.utils.logging.setLogLevel(0)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    folder = prepared.with_name(f"{prepared.name}-{os.getpid()}")
    shutil.copytree(prepared, folder, symlinks=True)
    (folder / "broken").mkdir(exist_ok=True)
    build_cache(read_mpii(folder / "people", "valid"), folder / "crops", CACHED, 64, workers=1, progress=False)  # of this folder
    shutil.copyfile(folder / "crops/index.npz", folder / "originals/index.npz")
    originals = {
        name: [file.read_bytes() for pattern in kind.originals for file in sorted(folder.glob(pattern))]
        for name, kind in KINDS.items()
    }
    return partial(one, folder, originals, seed)


def name_of(number: int) -> str:
    """The kind of a case."""
    return list(KINDS)[number % len(KINDS)]


def one(folder: Path, originals: dict[str, list[bytes]], seed: int, number: int) -> str:
    """Break a file and open it: "answered" or "refused", or the exception that should not be."""
    name = name_of(number)
    kind, files = KINDS[name], originals[name]
    rng = random.Random(f"{seed} {number}")  # noqa: S311  (no secret)
    path = folder / kind.place
    path.write_bytes(kind.spoil(rng.choice(files), files, rng))
    return ended(lambda: kind.open(path, folder, rng))
