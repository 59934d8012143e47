"""A sandbox for the commands of README.md and docs/: the project's folders, synthetic data, trained networks and images.

Everything in it is small: the data are synthetic and the networks are trained for a few steps.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch
from scipy.io import savemat

from hgfast.fileio.video import VideoWriter
from hgfast.pipelines.synthetic import generate_coco, generate_freihand, generate_mpii
from hgfast.pipelines.synthetic_data.images import render_images
from tests.conftest import ROOT
from tests.docs_runner import run_bash
from tests.foreign_nets import BearpawNet, PrincetonNet, with_random_statistics
from tests.robustness.fuzz_targets import annotations_by_image, release

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
"""Parts of the project that are linked into the sandbox."""
SHORT_RUN = shlex.split("--model.preset tiny --model.depth 1 --batch-size 4 --threads 1 --train.amp off --train.max-iters 0.002")
DATA = {
    "mpii": ("--dataset", "mpii", "--data", "MPII"),
    "hands": ("--dataset", "freihand", "--data", "FreiHAND"),
}
"""Experiments in the sandbox, and their data."""


def make_sandbox(folder: Path) -> Path:
    """Create the sandbox in a new folder."""
    folder.mkdir(parents=True)
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    generate_mpii(folder / "MPII", 10, seed=1, valid=6, workers=1)
    generate_freihand(folder / "FreiHAND", 24, seed=1, evaluation=8, workers=1)
    generate_coco(folder / "mine", 10, seed=2, valid=6, workers=1)
    for name in ("train.json", "val.json"):
        shutil.copy(folder / "mine" / name, folder / name)
    (folder / "DIR").symlink_to("mine/images")
    shutil.copy(folder / "MPII/annot/valid.h5", folder / "valid.h5")
    images = annotations_by_image(*(folder / f"MPII/annot/{split}.h5" for split in ("train", "valid")))
    savemat(folder / "mpii_human_pose_v1_u12_1.mat", {"RELEASE": release(images)}, do_compression=True)
    write_predictions(folder / "preds.h5", folder / "valid.h5")
    write_images(folder)
    for name in ("before", "after"):
        shutil.copy(ROOT / "bench/results/decode-2-cores.json", folder / f"{name}.json")
    theirs = folder / "theirs"
    theirs.mkdir()
    torch.manual_seed(3)
    torch.save(
        {"state_dict": {f"model.module.{k}": v for k, v in princeton_weights().items()}, "epoch": 3}, theirs / "checkpoint.pt"
    )
    torch.save({"state_dict": {f"module.{k}": v for k, v in bearpaw_weights().items()}}, theirs / "model_best.pth.tar")
    shutil.copy(theirs / "model_best.pth.tar", folder / "theirs.pth.tar")
    commands = [["train", *data, "--exp", name, *SHORT_RUN] for name, data in DATA.items()]
    for words in (*commands, ["export", "onnx", "exp/mpii/best.pt", "--no-verify", "--batch", "1:4:8"]):
        code, output = run_bash(shlex.join(["hgfast", *words]), folder)
        assert code == 0, f"{words}\n{output[-3000:]}"
    return folder


def princeton_weights() -> dict[str, torch.Tensor]:
    return dict(with_random_statistics(PrincetonNet(stacks=2, features=16, joints=16)).state_dict())


def bearpaw_weights() -> dict[str, torch.Tensor]:
    return dict(with_random_statistics(BearpawNet(stacks=1, planes=8, joints=16)).state_dict())


def write_predictions(path: Path, truth: Path) -> None:
    """Write predictions for all annotations with random errors of a few pixels."""
    with h5py.File(truth) as there, h5py.File(path, "w") as file:
        part = there["part"][:]
        file["preds"] = part + np.random.default_rng(0).normal(0, 3, part.shape)


def write_images(folder: Path) -> None:
    for name in ("photos", "folder"):
        (folder / name).mkdir()
    images = [cv2.resize(image, (480, 480)) for image in render_images(200, 3)]
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"photos/{number}.jpg"), image[..., ::-1])
    cv2.imwrite(str(folder / "photo.jpg"), images[0][..., ::-1])
    shutil.copy(folder / "photos/1.jpg", folder / "folder/one.jpg")
    with VideoWriter(folder / "film.webm", 10) as film:
        for image in images:
            film.write(image)
    for name in ("film.mp4", "video.mp4"):  # the content decides, not the suffix
        shutil.copy(folder / "film.webm", folder / name)
