"""List every file of a run's folder with its size and description."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hgfast.reporting.tables import format_size

MAX_LISTED = 40  # a subfolder with more files is listed as one entry

FILE_DESCRIPTIONS = (
    (r"(.*/)?\.[^/]*\.writing", "incomplete because writing was interrupted: not used, remove it"),
    (r"best\.pt", "the network with the best validation: for hgfast evaluate, predict, export and load_model"),
    (r"checkpoint\.pt", "the latest training state, for hgfast train --resume"),
    (r"checkpoint-\d{8}\.pt", "an older training state, kept by --train.keep-checkpoints"),
    (r"bad-batch-rank\d+\.pt", "a batch with gradients that are not finite, and the network before it"),
    (r"config\.yaml", "the configuration, for --config"),
    (r"metrics\.jsonl", "metrics, one line per epoch"),
    (r"events/.*", "curves and images for tensorboard --logdir"),
    (r"(.*/)?predictions\.json|(.*/)?keypoints\.json", "predicted keypoints of each image"),
    (r".*\.(onnx|torchscript|engine)\.json", "sidecar of the exported network"),
    (r".*\.onnx", "exported network, ONNX"),
    (r".*\.torchscript", "exported network, TorchScript"),
    (r".*\.engine", "exported network, TensorRT"),
    (r".*\.pt", "weights"),
    (r"(.*/)?(sheet|predictions)\.(jpg|png)", "samples: ground truth and prediction"),
    (r"(.*/)?worst\.(jpg|png)", "worst samples: ground truth and prediction"),
    (r"(.*/)?joints\.(png|svg|pdf)", "chart of accuracy per joint"),
    (r"(.*/)?curve\.(png|svg|pdf)", "chart of accuracy against threshold"),
    (r".*\.html?", "report"),
    (r".*\.(jpe?g|png|svg|pdf)", "image"),
    (r".*\.(mp4|avi|mkv|webm)", "video"),
    (r".*\.jsonl?", "JSON"),
)
"""Descriptions of relative paths. The first pattern that matches the whole path applies."""


@dataclass(frozen=True)
class FileEntry:
    """A file, or a subfolder of many files: path relative to the run's folder, size and description."""

    name: str
    size: str
    description: str


def list_files(folder: Path, known_descriptions: Mapping[Path, str], report_path: Path) -> list[FileEntry]:
    """List the files below a folder by name; a subfolder with more than `MAX_LISTED` files is one entry.

    Args:
        known_descriptions: descriptions by resolved path, which take precedence.
        report_path: the report itself, which is omitted.
    """
    entries = list[FileEntry]()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        paths = [Path(parent) / name for name in sorted(names)]
        paths = [path for path in paths if path.resolve() != report_path.resolve()]
        relative = Path(parent).relative_to(folder).as_posix()
        if len(paths) > MAX_LISTED and Path(parent) != folder:
            entries.append(FileEntry(f"{relative}/", format_size(sum(map(_size, paths))), f"{len(paths)} files"))
            continue
        for path in paths:
            name = path.relative_to(folder).as_posix()
            file_description = known_descriptions.get(path.resolve()) or next(
                (description for pattern, description in FILE_DESCRIPTIONS if re.fullmatch(pattern, name)), ""
            )
            link = f" (a link to {path.readlink()})" if path.is_symlink() else ""
            entries.append(FileEntry(name, format_size(_size(path)), file_description + link))
    return entries


def _size(path: Path) -> int:
    """Size in bytes; 0 for a broken link."""
    return path.stat().st_size if path.exists() else 0
