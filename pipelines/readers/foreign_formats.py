"""Recognition of annotation files that are not COCO: what they are, and how to get a COCO file from them."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CONVERT = "convert it with 'hgfast convert {path} OUT.json'"
CONVERT_YOLO = "convert its data set with 'hgfast convert DATA.yaml OUT.json', where DATA.yaml has kpt_shape"
COCO_ENTRIES = "write its points as a COCO file, whose entries docs/annotation-formats.md shows"
FULL_JSON = "name a JSON file of COCO keypoints"

_MAGIC = (
    (b"\x1f\x8b", "gzip-compressed", "unpack it with gunzip and name the unpacked file"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it and name the JSON file in it"),
    (b"Rar!", "a RAR archive", "unpack it and name the JSON file in it"),
    (b"\x89HDF", "an HDF5 file, as SLEAP (.slp), NWB and DeepLabCut (.h5) write", CONVERT),
    (b"MATLAB 5.0", "a MATLAB file", COCO_ENTRIES),
    (b"\x93NUMPY", "a numpy array", COCO_ENTRIES),
    (b"\x80", "a Python pickle", COCO_ENTRIES),
    (b"\xff\xd8", "a JPEG image", FULL_JSON),
    (b"\x89PNG", "a PNG image", FULL_JSON),
    (b"%PDF", "a PDF", FULL_JSON),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file", "download the file with 'git lfs pull'"),
)
"""First bytes of files that are not text, what the file is, and what to do."""

_KEYS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("shapes", "imagePath"), "a labelme file, which holds one image", COCO_ENTRIES),
    (("_via_img_metadata",), "a project of the VGG Image Annotator (VIA)", COCO_ENTRIES),
    (("data", "annotations"), "a task of Label Studio", CONVERT),
    (("joints", "joints_vis", "image"), "the MPII annotations of HRNet and mmpose", "read it with --dataset mpii"),
    (("annolist",), "annotations of PoseTrack17 in MPII's layout", "use the COCO files of PoseTrack18 instead"),
    (("image_id", "keypoints", "score"), "a list of COCO results, which are predictions", "name the file of annotations"),
    (("image_id", "bbox", "score"), "a list of COCO results, which are detections", "name the file of annotations"),
    (("image_id", "keypoint_annotations"), "annotations of AI Challenger", "convert them with mmpose's tools to COCO keypoints"),
    (("people", "version"), "OpenPose's output for one image, which is a prediction", "name a file of annotations"),
    (("size", "objects", "tags"), "a Supervisely annotation of one image", "export the project as COCO Keypoints in Supervisely"),
    (("item", "annotations", "schema_ref"), "a V7 Darwin file", "export it as COCO in V7"),
    (("data_row", "projects"), "an export of Labelbox", COCO_ENTRIES),
    (("type", "features"), "GeoJSON", COCO_ENTRIES),
    (("infos", "items"), "a Datumaro file", "convert it with 'datum convert -f coco_person_keypoints' of Datumaro"),
    (("categories", "items"), "a Datumaro file", "convert it with 'datum convert -f coco_person_keypoints' of Datumaro"),
    (
        ("item1", "pair_id"),
        "an annotation of DeepFashion2 for one image",
        "convert the set with its deepfashion2_to_coco.py",
    ),
    (("filename", "regions"), "annotations of the VGG Image Annotator (VIA)", COCO_ENTRIES),
    (
        ("image", "annotator", "lead_time"),
        "Label Studio's JSON-MIN export",
        "export JSON, and use 'hgfast convert'",
    ),
    (("image", "annotations"), "a CreateML file, which holds boxes", FULL_JSON),
    (("campos", "camrot"), "camera parameters of InterHand2.6M", FULL_JSON),
)
"""Keys that a mapping, the first entry of a list or the first value of a mapping has, what the file is, and what to do."""

_NUMBERS = re.compile(r"\s*\d+(?:\s+-?[\d.]+(?:[eE][-+]?\d+)?){4,}\s*")


def describe_foreign_file(path: Path, content: Any = None) -> str:
    """Return one sentence that tells what a file that is not COCO is, and what to do with it.

    Args:
        content: the decoded JSON; None if the file is not valid JSON.
    """
    kind, advice = _describe_json(content) if content is not None else _describe_bytes(path)
    return f"{path} is {kind}: {advice.format(path=path)}"


def _describe_json(content: Any) -> tuple[str, str]:
    candidates: list[Any] = [content]
    if isinstance(content, (list, dict)) and content:
        candidates.append(content[0] if isinstance(content, list) else next(iter(content.values())))
    for mapping in candidates:
        if isinstance(mapping, dict):
            # Label Studio and COCO both have annotations, but only a task has data
            match = next((known for known in _KEYS if set(known[0]) <= mapping.keys()), None)
            if match is not None and not ("images" in mapping and "annotations" in mapping):
                return match[1], match[2]
    if isinstance(content, list) and content and isinstance(content[0], list):
        return "a list of lists of numbers, as in FreiHAND's training_xyz.json", "read FreiHAND's folder with --dataset freihand"
    if isinstance(content, dict):
        lacking = [key for key in ("images", "annotations") if key not in content]
        if lacking:
            return f"not a COCO annotation file, as it has no {' and no '.join(map(repr, lacking))}", FULL_JSON
    return "not a COCO annotation file", "wanted a mapping with images, annotations and categories"


def _describe_bytes(path: Path) -> tuple[str, str]:
    with path.open("rb") as file:
        start = file.read(1 << 16)
    if not start.strip():
        return "empty", "copy or export it again"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json")]
        found = f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
        return "a ZIP archive, not JSON", f"unpack it and name the JSON file in it{found}"
    for magic, kind, advice in _MAGIC:
        if start.startswith(magic):
            return kind, advice
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = start[: len(start) // 2 * 2].decode("utf-16", "replace")
    else:
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return (
                f"not in UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})",
                "save it as UTF-8, for instance with 'iconv -f GBK -t UTF-8' if it was written on a Chinese Windows, "
                "-f CP1252 on a Western one",
            )
    return _describe_markup(text) or _describe_table(text) or _describe_broken_json(text)


def _describe_markup(text: str) -> tuple[str, str] | None:
    if not text.lstrip().startswith("<"):
        return None
    roots: Iterable[str] = re.findall(r"<([A-Za-z][\w:.-]*)", text[:4096])
    root = next((name.lower() for name in roots), "")
    if root == "annotations":
        return "an XML file of CVAT", "in CVAT export the task as COCO Keypoints 1.0"
    if root == "annotation":
        return "a Pascal VOC or LabelImg XML file, which holds boxes", "export COCO keypoints from the tool that wrote it"
    if root == "html":
        return "a web page, so its download failed", "download the file again"
    return "XML", "export COCO keypoints from the tool that wrote it"


def _describe_table(text: str) -> tuple[str, str] | None:
    """Describe lines of numbers or of comma-separated values, and YAML; None if the text is none of these."""
    lines = [line for line in text.splitlines() if line.strip()]
    if all(_NUMBERS.fullmatch(line) for line in lines[:20]):
        return "a YOLO label file of one image", CONVERT_YOLO
    if re.search(r"(?m)^(kpt_shape|train|names)\s*:", text):
        return "the YAML file of a YOLO data set", CONVERT
    if lines[0].startswith("scorer,"):
        return "a table of DeepLabCut", CONVERT
    if re.match(r"#?filename,file_size,file_attributes", lines[0]):
        return "a CSV file of the VGG Image Annotator (VIA)", COCO_ENTRIES
    if re.match(r"version:\s*1$", lines[0]) and "n_points" in text:
        return "a file of the points of one face (.pts), as of 300-W", COCO_ENTRIES
    if lines[0][0] not in "[{" and "," in lines[0]:
        return "a table (CSV)", COCO_ENTRIES
    return None


def _describe_broken_json(text: str) -> tuple[str, str]:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        before, after = text[: error.pos].rstrip(), text[error.pos :].lstrip()
        where = f"not valid JSON: line {error.lineno}, column {error.colno}"
        if not after or (error.msg.startswith("Unterminated string") and '"' not in text[error.pos + 1 :]):
            return f"cut off after {len(text)} characters", "copy or export it again"
        if error.msg == "Extra data" and text[0] == "{" and after[0] == "{":
            return "JSON Lines, one document per line", COCO_ENTRIES
        if (after[0] in "]}" and before.endswith(",")) or (after[0] == "," and re.match(r",\s*[\]}]", after)):
            return f"{where} has a comma before '{re.sub('[, ]', '', after)[0]}'", "remove the comma"
        if after[0] == "'":
            return f"{where} has a name in single quotes, as Python prints them", "write the file with json.dump"
        if after.startswith(("//", "/*", "#")):
            return f"{where} has a comment", "remove it"
        return f"{where}: {error.msg}", "export it again"
    except RecursionError:
        return "not valid JSON: its lists are nested too deeply", "export it again"
    return "valid JSON in another encoding than UTF-8", "save it as UTF-8"
