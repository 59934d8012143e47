"""Conversion of annotations of YOLO pose, Label Studio, DeepLabCut, SLEAP and NWB to COCO keypoints, through sleap-io.

COCO's x and y are pixel indices: (0, 0) is the center of the first pixel. SLEAP, NWB and DeepLabCut count the same way; the
fractions of YOLO and Label Studio start at the image's corner, so half a pixel is subtracted. An annotation has a `bbox` if the
format has boxes (YOLO); else hgfast takes the box of its joints.
"""

from __future__ import annotations

import copy
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write, temporary_folder, writing
from hgfast.fileio.yaml_file import read_yaml
from hgfast.geometry import FloatArray

FORMATS = {".slp": "slp", ".nwb": "nwb", ".yaml": "ultralytics", ".yml": "ultralytics", ".csv": "dlc", ".json": "labelstudio"}
"""Suffix of a file and sleap-io's name of its format."""
CORNER_FORMATS = {"ultralytics", "labelstudio"}


def convert_annotations(source: Path, out: Path, split: str = "train") -> str:
    """Write the annotations of a file as COCO keypoints, and return one line that describes them.

    Names of images are absolute paths, or relative to the folder of `out` if they lie in it. Frames of videos are written as PNG
    files into the folder OUT_images beside `out`.

    Args:
        split: for YOLO, the split of the data set.

    Raises:
        HgfastError: sleap-io is not installed or cannot read the file, or no joint is labeled.
    """
    kind = FORMATS.get(source.suffix.lower())
    if kind is None:
        raise HgfastError(f"{source}: its ending is none of {', '.join(FORMATS)}, which 'hgfast convert IN OUT.json' reads")
    if not source.is_file():
        raise HgfastError(f"there is no file {source}: name the file of annotations")
    try:
        labels = _load(source, kind, split)
    except HgfastError:
        raise
    except ImportError as error:
        raise HgfastError(
            f"annotations are converted with sleap-io ({error}): install it with pip install hgfast[convert]"
        ) from error
    except Exception as error:  # sleap-io and the libraries under it raise whatever a broken file leads to
        raise HgfastError(f"{source} cannot be read as {kind} ({type(error).__name__}: {error}): check the file") from error
    content = _to_coco(labels, out, 0.5 if kind in CORNER_FORMATS else 0.0, kind == "ultralytics")
    if not content["annotations"]:
        raise HgfastError(f"{source} has no labeled joint{f' in the split {split}' * (kind == 'ultralytics')}: label some first")
    with writing(out, "choose another folder"), atomic_write(out) as part:
        part.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    images, joints = content["images"], content["categories"][0]["keypoints"]
    root = "/" if any(Path(image["file_name"]).is_absolute() for image in images) else out.parent
    return f"{out}: {len(images)} images, {len(content['annotations'])} annotations of {len(joints)} joints; --images {root}"


def _load(source: Path, kind: str, split: str) -> Any:
    sio = import_module("sleap_io")
    if kind == "slp":
        return sio.load_slp(str(source))
    if kind == "nwb":
        return sio.load_nwb(str(source))
    if kind == "dlc":
        return sio.load_dlc(str(source))
    if kind == "ultralytics":
        return sio.load_ultralytics(str(source.parent), split=split, skeleton=_yolo_skeleton(source, sio))
    tasks = json.loads(source.read_text("utf-8"))
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and "annotations" in task for task in tasks):
        raise HgfastError(f"{source} is not Label Studio's JSON export, a list of tasks with annotations; export it as JSON")
    tasks = [_local_task(task, source) for task in tasks if any(entry.get("result") for entry in task["annotations"])]
    with temporary_folder() as folder:
        file = folder / "tasks.json"
        file.write_text(json.dumps(tasks), "utf-8")
        return sio.load_labelstudio(str(file))


def _yolo_skeleton(source: Path, sio: Any) -> Any:
    """Return the skeleton of DATA.yaml's `kpt_names` or `node_names`, or of numbered joints."""
    config = read_yaml(source, "the data set")
    shape = config.get("kpt_shape") if isinstance(config, dict) else None
    if not isinstance(shape, list) or not shape or type(shape[0]) is not int:
        raise HgfastError(f"{source} has no kpt_shape, so it is no data set of YOLO pose: add 'kpt_shape: [JOINTS, 3]'")
    names = config.get("kpt_names") or config.get("node_names") or [f"point{n}" for n in range(shape[0])]
    if isinstance(names, dict):  # class -> names
        names = next(iter(names.values()))
    if len(names) != shape[0]:
        raise HgfastError(f"{source} names {len(names)} joints, and kpt_shape has {shape[0]}: correct it")
    edges = [tuple(edge) for edge in config.get("skeleton") or []]
    return sio.Skeleton([str(name) for name in names], edges=edges)


def _local_task(task: dict[str, Any], source: Path) -> dict[str, Any]:
    """Return a task of Label Studio with the path and size of its image where sleap-io expects them.

    Label Studio keeps uploaded images under data/upload and names them by a URL; the local file is looked up by its last name
    beside the export, or in its folder `images`.
    """
    if "video" in task.get("meta", {}):
        return task
    task = copy.deepcopy(task)
    result = next(entry["result"] for entry in task["annotations"] if entry.get("result"))
    task["annotations"] = [entry for entry in task["annotations"] if entry.get("result")]
    size = next(
        ({"w": item["original_width"], "h": item["original_height"]} for item in result if "original_width" in item), None
    )
    name = next((value for value in task.get("data", {}).values() if isinstance(value, str)), None)
    if size is None or name is None:
        raise HgfastError(f"{source}: task {task.get('id')} has no image or no size of it: export it again as JSON")
    name = name.split("?d=")[-1].replace("\\", "/").rsplit("/", 1)[-1]
    path = next((folder / name for folder in (source.parent, source.parent / "images") if (folder / name).is_file()), Path(name))
    task["meta"] = {"video": {"filename": str(path), "frame_idx": 0, "shape": [1, *size, 3]}}
    return task


def _to_coco(labels: Any, out: Path, offset: float, has_boxes: bool) -> dict[str, Any]:
    """Return the content of the COCO file. The joints are those of the first skeleton that a labeled instance has."""
    frames = [frame for frame in labels.labeled_frames if frame.user_instances]
    skeletons = {id(instance.skeleton): instance.skeleton for frame in frames for instance in frame.user_instances}
    joints = [list(skeleton.node_names) for skeleton in skeletons.values()]
    if any(names != joints[0] for names in joints):
        raise HgfastError("the annotations have several skeletons with different joints: convert them one at a time")
    images, annotations = [], list[dict[str, Any]]()
    for number, frame in enumerate(frames):
        name, width, height = _image(frame, out, number)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        boxes = _yolo_boxes(name, out, width, height) if has_boxes else []
        for index, instance in enumerate(frame.user_instances):
            points: FloatArray = np.asarray(instance.numpy(), np.float64) - offset
            is_labeled: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(1), bool)
            if not is_labeled.any():
                continue
            keypoints = np.where(is_labeled[:, None], np.column_stack([points, np.full(len(points), 2)]), 0)
            annotation: dict[str, Any] = {"id": len(annotations), "image_id": number, "category_id": 1, "iscrowd": 0}
            annotation |= {"num_keypoints": int(is_labeled.sum()), "keypoints": keypoints.round(4).ravel().tolist()}
            if len(boxes) == len(frame.user_instances):
                annotation["bbox"] = boxes[index]
            annotations.append(annotation)
    skeleton = next(iter(skeletons.values()), None)
    edges = [[first + 1, second + 1] for first, second in skeleton.edge_inds] if skeleton is not None else []
    category = {"id": 1, "name": "instance", "keypoints": joints[0] if joints else [], "skeleton": edges}
    return {"images": images, "annotations": annotations, "categories": [category]}


def _image(frame: Any, out: Path, number: int) -> tuple[str, int, int]:
    """Return the file of a frame, relative to the folder of `out` if it lies in it, its width and height."""
    names = frame.video.filename
    name = names[frame.frame_idx] if isinstance(names, list) else names
    path = Path(name).absolute()
    if path.suffix.lower() in (".mp4", ".avi", ".mov", ".mkv", ".webm", ".h5", ".hdf5", ".slp", ".nwb"):
        path = (out.parent / f"{out.stem}_images" / f"{Path(name).stem}_{frame.frame_idx:06d}.png").absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        frame_image = np.asarray(frame.image)
        if not cv2.imwrite(str(path), frame_image if frame_image.shape[-1] == 1 else frame_image[..., ::-1]):
            raise HgfastError(f"{path} cannot be written: check the folder's permissions")
    shape = frame.video.shape
    if shape is None and (image := cv2.imread(str(path), cv2.IMREAD_UNCHANGED)) is not None:
        shape = (1, *image.shape[:2])
    if shape is None:
        raise HgfastError(f"there is no image {path}, whose size is needed: put it there, or beside the annotations")
    root = out.parent.absolute()
    return str(path.relative_to(root) if path.is_relative_to(root) else path), int(shape[2]), int(shape[1])


def _yolo_boxes(name: str, out: Path, width: int, height: int) -> list[list[float]]:
    """Return the boxes of an image's label file as x, y, width, height in pixels: sleap-io leaves them out."""
    image = out.parent / name
    file = Path(str(image.parent).replace("/images", "/labels")) / f"{image.stem}.txt"
    rows = [
        [float(value) for value in line.split()[1:5]] for line in file.read_text("utf-8").splitlines() if len(line.split()) > 5
    ]
    return [[(x - w / 2) * width, (y - h / 2) * height, w * width, h * height] for x, y, w, h in rows]
