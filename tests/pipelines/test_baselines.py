"""The two baselines, on data with known predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from hgfast.pipelines.baselines import mean_pose, nearest_thumbnail, thumbnails
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.visualization.draw import read_image


def test_mean_pose(hands: Path) -> None:
    train, test = read_freihand(hands, "train"), read_freihand(hands, "test")
    guess = mean_pose(train, test)
    assert guess.shape == test.keypoints.shape
    assert np.allclose(guess[0], train.keypoints.mean(0))
    zoomed = replace(test, center=test.center + 10, side=test.side / 2)  # the same prediction in another crop
    assert np.allclose(mean_pose(train, zoomed)[0], (train.keypoints.mean(0) - 112) / 2 + 122)


def test_nearest_thumbnail_of_the_training_set_is_itself(hands: Path) -> None:
    test = read_freihand(hands, "test", ["hom"])
    assert np.allclose(nearest_thumbnail(read_freihand(hands, "all", ["hom"]), test), test.keypoints)


def test_missing_joints_fall_back_to_the_mean_pose(hands: Path) -> None:
    test = read_freihand(hands, "test", ["hom"])
    train = read_freihand(hands, "all", ["hom"])
    lacking = replace(train, labeled=train.labeled & (np.arange(21) != 4))
    guess = nearest_thumbnail(lacking, test)
    assert np.allclose(np.delete(guess, 4, 1), np.delete(test.keypoints, 4, 1))
    assert np.allclose(guess[:, 4], mean_pose(lacking, test)[:, 4])


def test_unreadable_training_image_is_never_nearest(hands: Path, tmp_path: Path) -> None:
    train, test = read_freihand(hands, "all", ["hom"]), read_freihand(hands, "test", ["hom"])
    (tmp_path / "bad.jpg").write_text("no image")
    same_hands = np.isin(train.group, test.group)
    unreadable = replace(train, paths=np.where(same_hands, str(tmp_path / "bad.jpg"), train.paths))
    assert not np.allclose(nearest_thumbnail(unreadable, test), test.keypoints)
    assert np.isfinite(nearest_thumbnail(unreadable, test)).all()


def test_thumbnails_are_shrunk_as_torch_shrinks(hands: Path) -> None:
    samples = read_freihand(hands, "test", ["gs"])
    image = torch.from_numpy(read_image(samples.paths[0])).permute(2, 0, 1)[None].float()
    wanted = interpolate(image, size=(16, 16), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    got = thumbnails(samples)[0].reshape(16, 16, 3)
    inner = slice(1, -1)  # at the border torch has fewer pixels, hgfast repeats the last ones
    assert got[inner, inner] == pytest.approx(wanted[inner, inner], abs=0.51)
