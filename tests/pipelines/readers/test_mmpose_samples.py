"""Official samples of many data sets, as mmpose distributes them: all are read as they are, and networks can learn them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hgfast.checkpoints import load_model
from hgfast.config import BEST_FILE, Config
from hgfast.errors import HgfastError
from hgfast.pipelines.readers.coco import CocoOptions, CocoSamples, read_coco
from hgfast.runtime.torch_predictor import predict_crops
from hgfast.training import distributed
from hgfast.training.run import train
from hgfast.visualization.draw import read_image
from tests.conftest import shared_path

SETS = [
    ("300vw", "anno_300vw", "300w", 68, 3, 204, 29),
    ("300w", "test_300w", "300w", 68, 2, 136, 29),
    ("300wlp", "test_300wlp", "300w", 68, 2, 136, 29),
    ("aflw", "test_aflw", "aflw", 19, 2, 38, 8),
    ("aic", "test_aic", None, 14, 9, 101, 6),
    ("animalpose", "test_animalpose", None, 20, 2, 32, 8),
    ("ap10k", "test_ap10k", None, 17, 2, 32, 7),
    ("atrw", "test_atrw", None, 15, 2, 30, 6),
    ("coco", "test_coco", None, 17, 12, 181, 8),
    ("coco", "test_coco_wholebody", None, 17, 12, 181, 8),
    ("cofw", "test_cofw", "cofw", 29, 2, 58, 11),
    ("crowdpose", "test_crowdpose", None, 14, 4, 47, 6),
    ("deepfasion2", "deepfasion2", None, 294, 2, 59, 0),
    ("exlpose", "test_exlpose", None, 14, 6, 82, 6),
    ("fld", "test_fld", None, 8, 2, 15, 4),
    ("fly", "test_fly", None, 32, 2, 64, 14),
    ("freihand", "test_freihand", None, 21, 8, 168, 0),
    ("horse10", "test_horse10", None, 22, 3, 52, 0),
    ("jhmdb", "test_jhmdb_sub1", None, 15, 3, 45, 6),
    ("lapa", "test_lapa", "lapa", 106, 2, 212, 48),
    ("locust", "test_locust", None, 35, 2, 70, 15),
    ("macaque", "test_macaque", None, 17, 2, 31, 8),
    ("mhp", "test_mhp", None, 16, 4, 41, 6),
    ("mpii", "test_mpii_trb", None, 40, 5, 181, 19),
    ("ochuman", "test_ochuman", None, 17, 5, 73, 8),
    ("onehand10k", "test_onehand10k", None, 21, 4, 63, 0),
    ("panoptic", "test_panoptic", None, 21, 4, 84, 0),
    ("posetrack18", "annotations/test_posetrack18_val", None, 17, 14, 182, 7),
    ("rhd", "test_rhd", None, 21, 3, 63, 0),
    ("wflw", "test_wflw", "wflw", 98, 4, 392, 44),
    ("zebra", "test_zebra", None, 9, 2, 18, 2),
]
"""Folder, file, --skeleton, and the numbers of joints, samples, labeled joints and flip pairs, counted in the files."""


def read(folder: str, file: str, skeleton: str | None, images: Path | None = None) -> CocoSamples:
    root = shared_path("fixtures/mmpose_samples") / folder
    options = CocoOptions(skeleton=None if skeleton is None else Path(skeleton))
    return read_coco(root / f"{file}.json", images or root, options)


@pytest.mark.real_data
@pytest.mark.parametrize(("folder", "file", "skeleton", "joints", "samples", "labeled", "pairs"), SETS)
def test_a_set_is_read_as_it_is(
    folder: str, file: str, skeleton: str | None, joints: int, samples: int, labeled: int, pairs: int
) -> None:
    found = read(folder, file, skeleton)
    flips = found.skeleton.flip_indices
    assert (len(found.skeleton.joints), len(found), int(found.labeled.sum())) == (joints, samples, labeled)
    assert sum(joint < other for joint, other in enumerate(flips)) == pairs


@pytest.mark.real_data
def test_sets_whose_images_or_categories_are_elsewhere(tmp_path: Path) -> None:
    root = shared_path("fixtures/mmpose_samples")
    halpe = read("halpe", "test_halpe", "halpe", root / "coco")
    assert (len(halpe.skeleton.joints), len(set(halpe.paths.tolist()))) == (136, 4)
    kingdom = read("ak", "test_animalkingdom", "animalkingdom")  # the sample lists another category than its annotations have
    assert (len(kingdom.skeleton.joints), len(kingdom), len(kingdom.skeleton.edges)) == (23, 2, 22)
    with pytest.raises(HgfastError, match="x, y, v of 133 joints"):
        read("ubody3d", "ubody3d_train", "coco_wholebody")
    with pytest.raises(HgfastError, match="no category has keypoints"):
        read("interhand2.6m", "test_interhand2.6m_data", None)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(("folder", "skeleton"), [("ap10k", None), ("wflw", "wflw"), ("crowdpose", None), ("onehand10k", None)])
def test_a_network_learns_a_set_by_heart(folder: str, skeleton: str | None, tmp_path: Path) -> None:
    root = shared_path("fixtures/mmpose_samples") / folder
    config = Config(dataset="coco", out=tmp_path, exp="fit", batch_size=4, threads=1, device="cpu", loader="opencv")
    config.annotations = config.valid_annotations = root / f"test_{folder}.json"
    config.images, config.skeleton = root, None if skeleton is None else Path(skeleton)
    config.model.preset = "small"
    augment = config.augment
    augment.flip = augment.rotation = augment.shift = 0.0
    augment.scale_min = augment.scale_max = 1.0
    config.train.epochs, config.train.lr, config.train.val_interval, config.train.amp = 400, 2e-3, 100, "off"
    run = train(config, distributed.init_distributed("cpu"))
    samples = read(folder, f"test_{folder}", skeleton)
    model = load_model(run / BEST_FILE)
    errors = []
    for row, path in enumerate(samples.paths.tolist()):
        points = predict_crops(model, read_image(path), samples.center[row : row + 1], samples.side[row : row + 1])[0][0, :, :2]
        distance = np.linalg.norm(points - samples.keypoints[row], axis=-1) * model.meta.input_size / samples.side[row]
        errors.append(distance[samples.labeled[row]])
    mean = float(np.concatenate(errors).mean())
    print(f"{folder}: {len(samples)} samples, mean error {mean:.2f} px of {model.meta.input_size}")
    assert mean < 2
