"""Every file of a run's folder: its size, and what it is.

What may enter: the names that parts of hgfast give to files, in words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hgfast.report_tables import in_bytes

MANY = 40  # files of a folder that are still listed one by one

KINDS = (
    (r"(.*/)?\.[^/]*\.writing", "cut short while it was written: not used, remove it"),
    (r"best\.pt", "the network that validated best: for evaluate.py, predict.py, export/ and load_model"),
    (r"checkpoint\.pt", "the newest state of the training, to go on from with -c"),
    (r"checkpoint-\d{8}\.pt", "an older state of the training, kept by --train.keep"),
    (r"bad-batch-rank\d+\.pt", "a batch whose gradients were not finite, and the network before it"),
    (r"config\.yaml", "the configuration, for --config"),
    (r"metrics\.jsonl", "a line of figures for each epoch"),
    (r"events/.*", "curves and pictures for TensorBoard: tensorboard --logdir"),
    (r"(.*/)?predictions\.json|(.*/)?keypoints\.json", "keypoints found in each picture"),
    (r".*\.(onnx|torchscript|engine)\.json", "description of the exported network beside it"),
    (r".*\.onnx", "exported network, ONNX"),
    (r".*\.torchscript", "exported network, TorchScript"),
    (r".*\.engine", "exported network, TensorRT"),
    (r".*\.pt", "weights"),
    (r"(.*/)?(sheet|predictions)\.(jpg|png)", "samples, ground truth beside prediction"),
    (r"(.*/)?worst\.(jpg|png)", "the worst samples, ground truth beside prediction"),
    (r"(.*/)?joints\.(png|svg|pdf)", "chart of every joint's accuracy"),
    (r"(.*/)?curve\.(png|svg|pdf)", "chart of accuracy against its threshold"),
    (r".*\.html?", "a report like this one"),
    (r".*\.(jpe?g|png|svg|pdf)", "picture"),
    (r".*\.(mp4|avi|mkv|webm)", "video"),
    (r".*\.jsonl?", "JSON"),
)
"""What a path below the folder is, by the first pattern that is the whole of it."""


@dataclass(frozen=True)
class File:
    """A file, or a whole folder of many: its path below the run's folder, its size and what it is, in words."""

    name: str
    size: str
    what: str


def files(folder: Path, known: Mapping[Path, str], page: Path) -> list[File]:
    """The files below a folder, by name, those of folders with more than `MANY` as one.

    Args:
        known: what resolved paths are, where somebody has looked into them.
        page: the report itself, which is left out.
    """
    listed = list[File]()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        paths = [Path(parent) / name for name in sorted(names)]
        paths = [path for path in paths if path.resolve() != page.resolve()]
        below = Path(parent).relative_to(folder).as_posix()
        if len(paths) > MANY and Path(parent) != folder:
            listed.append(File(f"{below}/", in_bytes(sum(map(_size, paths))), f"{len(paths)} files"))
            continue
        for path in paths:
            name = path.relative_to(folder).as_posix()
            what = known.get(path.resolve()) or next((words for form, words in KINDS if re.fullmatch(form, name)), "")
            link = f" (a link to {path.readlink()})" if path.is_symlink() else ""
            listed.append(File(name, in_bytes(_size(path)), what + link))
    return listed


def _size(path: Path) -> int:
    """Its bytes; 0 for a link that leads nowhere."""
    return path.stat().st_size if path.exists() else 0
