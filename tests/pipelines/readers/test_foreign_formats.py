"""Files that are not COCO are named, with the command or the tool's own export that makes a COCO file of them."""

from __future__ import annotations

import gzip
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hgfast.pipelines.readers.foreign_formats import describe_foreign_file

COCO = {"images": [{"id": 1, "file_name": "照片.png"}], "annotations": [], "categories": []}
TEXT = json.dumps(COCO, ensure_ascii=False)

JSON_FILES: list[tuple[Any, str, str]] = [
    ({"version": "5", "shapes": [], "imagePath": "a.png"}, "labelme", "annotation-formats.md"),
    ({"_via_settings": {}, "_via_img_metadata": {}}, "VIA", "annotation-formats.md"),
    ({"a.jpg12": {"filename": "a.jpg", "size": 12, "regions": []}}, "VIA", "annotation-formats.md"),
    ([{"id": 1, "data": {"image": "a.png"}, "annotations": []}], "Label Studio", "hgfast convert"),
    ([{"joints": [], "joints_vis": [], "image": "a.png", "scale": 1}], "HRNet", "--dataset mpii"),
    ([{"image_id": 1, "keypoints": [], "score": 0.5, "category_id": 1}], "predictions", "annotations"),
    ([[[0.1, 0.2, 0.3]]], "FreiHAND", "--dataset freihand"),
    ({"version": 1.3, "people": []}, "OpenPose", "annotations"),
    ({"description": "", "tags": [], "size": {}, "objects": []}, "Supervisely", "COCO Keypoints"),
    ({"info": {}, "categories": {}, "items": []}, "Datumaro", "coco_person_keypoints"),
    ({"images": []}, "no 'annotations'", "JSON"),
    ("text", "not a COCO annotation file", "images, annotations and categories"),
]
BROKEN_FILES: list[tuple[bytes, str, str]] = [
    (b"", "empty", "again"),
    (TEXT[:-9].encode(), "cut off", "again"),
    (TEXT[:-1].encode() + b",}", "comma before '}'", "remove"),
    (b'{"images": [1, 2, ], "annotations": []}', "comma before ']'", "remove"),
    (str(COCO).encode(), "single quotes", "json.dump"),
    (TEXT.encode("gbk"), "not in UTF-8 (byte 36 is 0xd5)", "iconv"),
    (gzip.compress(TEXT.encode(), mtime=0), "gzip", "gunzip"),
    (pickle.dumps(COCO), "pickle", "annotation-formats.md"),
    (b"<?xml version='1.0'?><annotations><track/></annotations>", "CVAT", "COCO Keypoints 1.0"),
    (b"<annotation><folder/></annotation>", "VOC", "export"),
    (b"<!DOCTYPE html>\n<html><body>404</body></html>", "web page", "download"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS", "git lfs pull"),
    (b"0 0.5 0.5 0.5 0.5 0.2 0.3 2\n0 0.5 0.5 0.1 1e-1 0.2 -0.3 0\n", "YOLO", "hgfast convert DATA.yaml"),
    (b"path: .\nkpt_shape: [3, 2]\nnames: {0: cat}\n", "YOLO", "hgfast convert"),
    (b"scorer,me,me\nbodyparts,nose,nose\ncoords,x,y\na.png,1,2\n", "DeepLabCut", "hgfast convert"),
    (b"version: 1\nn_points:  68\n{\n1.0 2.0\n}\n", "points", "annotation-formats.md"),
    (TEXT.encode() + b"\n" + TEXT.encode(), "JSON Lines", "annotation-formats.md"),
    (b"a,b,c\n1,2,3\n", "CSV", "annotation-formats.md"),
    (b"\x89PNG\r\n\x1a\n" + b"0" * 9, "PNG", "JSON"),
    (b"[" * 100_000, "nested too deeply", "again"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "kind", "advice"), JSON_FILES)
def test_json_of_other_tools(tmp_path: Path, content: Any, kind: str, advice: str) -> None:
    sentence = describe_foreign_file(tmp_path / "train.json", content)
    assert sentence.startswith(f"{tmp_path / 'train.json'} is ") and kind in sentence and advice in sentence
    assert "\n" not in sentence and "{path}" not in sentence


@pytest.mark.parametrize(("content", "kind", "advice"), BROKEN_FILES)
def test_files_that_are_no_json(tmp_path: Path, content: bytes, kind: str, advice: str) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(content)
    sentence = describe_foreign_file(path)
    assert kind in sentence and advice in sentence and "\n" not in sentence


def test_archives_name_their_json_files_and_hdf5_its_converter(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.json", "w") as archive:
        archive.writestr("data/result.json", TEXT)
    assert "unpack it and name the JSON file in it (data/result.json)" in describe_foreign_file(tmp_path / "export.json")
    with h5py.File(tmp_path / "labels.slp", "w") as file:
        file["points"] = np.zeros(3)
    assert f"hgfast convert {tmp_path / 'labels.slp'} OUT.json" in describe_foreign_file(tmp_path / "labels.slp")
