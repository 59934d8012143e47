"""A folder in which the commands of README.md and docs/ find what they speak of: our folders, drawn data, networks, pictures.

What may enter: making that folder. Everything in it is small and real: data are drawn, networks trained for a few steps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch
from conftest import ROOT, TIMEOUT

sys.path += [str(ROOT / "tests" / part) for part in ("hgfast", "pipelines")]

from foreign_nets import BearpawNet, SeedNet, lived_in
from test_mpii_mat import person, picture, points, structs, write

from hgfast.videos import VideoWriter
from pipelines.drawn.pictures import draw_pictures
from pipelines.synthetic import draw_coco, draw_freihand, draw_mpii

LINKED = (
    "hgfast",
    "pipelines",
    "export",
    "bench",
    "configs",
    "docs",
    "Makefile",
    "constraints.txt",
    "setup.py",
    "pyproject.toml",
)
"""Of the project, as links: what is written goes elsewhere."""
FEW = ("--model.preset", "tiny", "--batch-size", "4", "--threads", "1", "--train.amp", "off", "--train.max-iters", "0.002")
DATA = {
    "mpii": ("--dataset", "mpii", "--data", "MPII"),
    "hands": ("--dataset", "freihand", "--data", "FreiHAND"),
}
"""Experiments that there are, and what they were trained on."""
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def make_sandbox(folder: Path) -> Path:
    """Everything in the folder, which is made."""
    folder.mkdir(parents=True)
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    draw_mpii(folder / "MPII", 10, seed=1, valid=6, workers=1, progress=False)
    draw_freihand(folder / "FreiHAND", 24, seed=1, evaluation=8, workers=1, progress=False)
    draw_coco(folder / "mine", 10, seed=2, valid=6, workers=1, progress=False)
    for name in ("train.json", "val.json"):
        shutil.copy(folder / "mine" / name, folder / name)
    (folder / "DIR").symlink_to("mine/images")
    shutil.copy(folder / "MPII/annot/valid.h5", folder / "valid.h5")
    write_release(folder / "mpii_human_pose_v1_u12_1.mat", folder / "MPII/annot")
    write_predictions(folder / "preds.h5", folder / "valid.h5")
    write_pictures(folder)
    for name in ("before", "after"):
        shutil.copy(ROOT / "bench/results/decode-2-cores.json", folder / f"{name}.json")
    theirs = folder / "theirs"
    theirs.mkdir()
    torch.manual_seed(3)
    torch.save({"state_dict": {f"model.module.{k}": v for k, v in seed().items()}, "epoch": 3}, theirs / "checkpoint.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in bearpaw().items()}}, theirs / "model_best.pth.tar")
    shutil.copy(theirs / "model_best.pth.tar", folder / "theirs.pth.tar")
    for name, data in DATA.items():
        sh(folder, "python", "hgfast/train.py", *data, "--exp", name, *FEW)
    sh(folder, "python", "export/to_onnx.py", "exp/mpii/best.pt", "--no-verify", "--batch", "1:4:8")
    return folder


def sh(folder: Path, *words: str) -> None:
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def seed() -> dict[str, torch.Tensor]:
    return dict(lived_in(SeedNet(stacks=2, features=16, joints=16)).state_dict())


def bearpaw() -> dict[str, torch.Tensor]:
    return dict(lived_in(BearpawNet(stacks=1, planes=8, joints=16)).state_dict())


def write_predictions(path: Path, truth: Path) -> None:
    """Everybody of the annotations, some pixels off."""
    with h5py.File(truth) as there, h5py.File(path, "w") as file:
        part = there["part"][:]
        file["preds"] = part + np.random.default_rng(0).normal(0, 3, part.shape)


def write_release(path: Path, annot: Path) -> None:
    """The people of the h5 files in the layout of MPII's original file."""
    people: dict[str, list[dict[str, object]]] = {}
    for split in ("train", "valid"):
        with h5py.File(annot / f"{split}.h5") as file:
            rows = {name: file[name][:] for name in ("imgname", "part", "center", "scale", "person", "normalize")}
        for i, name in enumerate(rows["imgname"]):
            scale = float(rows["scale"][i]) / 1.25
            labelled = (rows["part"][i] != 0).any(-1)
            objpos = rows["center"][i] - (0, 15 * scale)
            head = float(rows["normalize"][i]) / 0.6
            one = person(points(rows["part"][i], labelled), objpos, scale, (10, 10, 10 + 0.6 * head, 10 + 0.8 * head))
            others = people.setdefault(name.decode(), [])
            while len(others) < rows["person"][i]:  # whom the h5 files leave out
                others.append({**one, "annopoints": np.zeros((0, 0))})
            others.append(one)
    write(path, [picture(name, structs(*them)) for name, them in people.items()])


def write_pictures(folder: Path) -> None:
    for name in ("photos", "folder"):
        (folder / name).mkdir()
    drawn = [cv2.resize(image, (480, 480)) for image in draw_pictures(200, 3)]
    for number, image in enumerate(drawn):
        cv2.imwrite(str(folder / f"photos/{number}.jpg"), image[..., ::-1])
    cv2.imwrite(str(folder / "photo.jpg"), drawn[0][..., ::-1])
    shutil.copy(folder / "photos/1.jpg", folder / "folder/one.jpg")
    with VideoWriter(folder / "film.mp4", 10) as film:
        for image in drawn:
            film.add(image)
    shutil.copy(folder / "film.mp4", folder / "video.mp4")
