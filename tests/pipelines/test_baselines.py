"""The two guesses, where what they must answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.baselines import mean_pose, nearest_thumbnail, thumbnails
from pipelines.freihand import read_freihand


def test_mean_pose(hands: Path) -> None:
    train, test = read_freihand(hands, "train"), read_freihand(hands, "test")
    guess = mean_pose(train, test)
    assert guess.shape == test.keypoints.shape
    assert np.allclose(guess[0], train.keypoints.mean(0))
    zoomed = replace(test, centre=test.centre + 10, side=test.side / 2)  # the same guess in another crop
    assert np.allclose(mean_pose(train, zoomed)[0], (train.keypoints.mean(0) - 112) / 2 + 122)


def test_nearest_thumbnail_of_the_same_pictures_is_themselves(hands: Path) -> None:
    test = read_freihand(hands, "test", ["hom"])
    assert np.allclose(nearest_thumbnail(read_freihand(hands, "all", ["hom"]), test), test.keypoints)


def test_thumbnails_average(hands: Path) -> None:
    from hgfast.draw import read_image

    samples = read_freihand(hands, "test", ["gs"])
    block = read_image(samples.paths[0]).reshape(16, 14, 16, 14, 3).mean((1, 3))
    assert thumbnails(samples)[0].reshape(16, 16, 3) == pytest.approx(block, abs=0.51)
