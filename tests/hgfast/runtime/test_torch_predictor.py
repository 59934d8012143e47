"""From an image and boxes to keypoints in source pixels; the flip test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hgfast.architectures import PRESETS
from hgfast.checkpoints import build_model
from hgfast.errors import HgfastError
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.runtime.boxes import crop_squares
from hgfast.runtime.torch_predictor import forward_heatmaps, predict_crops
from hgfast.skeletons import BODY16
from tests.finder import SIZE, SKELETON, DotDetector, draw_dots

RNG = np.random.default_rng(12)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (240, 320), (90, 60), (1500, 1100)])
def test_dots_are_found_where_they_are(width: int, height: int) -> None:
    radius = max(width, height) / 40
    points = np.array([[0.3, 0.4], [0.61, 0.33], [0.52, 0.77]]) * (width, height)
    image = draw_dots(width, height, points, radius)
    found, crops, heatmaps = predict_crops(DotDetector(), image, *crop_squares(image))  # type: ignore[arg-type]
    assert crops.shape == (1, SIZE, SIZE, 3) and heatmaps.shape == (1, 3, SIZE // 4, SIZE // 4)
    assert np.linalg.norm(found[0, :, :2] - points, axis=1).max() < 0.25 * max(width, height) / SIZE  # of an input pixel


def test_box_crop_and_full_image_agree() -> None:
    points = np.array([[260.0, 200.0], [330.0, 180.0], [300.0, 260.0]])
    image, box = draw_dots(640, 480, points, 8), (180, 100, 240, 240)
    x, y, side = box[:3]
    crop = np.ascontiguousarray(image[y : y + side, x : x + side])
    in_box = predict_crops(DotDetector(), image, *crop_squares(image, [box]))[0]  # type: ignore[arg-type]
    in_crop = predict_crops(DotDetector(), crop, *crop_squares(crop))[0]  # type: ignore[arg-type]
    assert np.abs(in_box[0, :, :2] - (in_crop[0, :, :2] + (x, y))).max() < 0.05
    whole, as_box = crop_squares(image), crop_squares(image, [(0, 0, 640, 480)])
    assert np.allclose(whole[0], as_box[0]) and np.allclose(whole[1], as_box[1])
    assert np.linalg.norm(in_box[0, :, :2] - points, axis=1).max() < 0.5
    assert np.linalg.norm(predict_crops(DotDetector(), image, *whole)[0][0, :, :2] - points, axis=1).max() < 1.5  # type: ignore[arg-type]


def test_several_boxes_give_one_pose_each() -> None:
    image = np.concatenate([draw_dots(200, 200, RNG.uniform(60, 140, (3, 2)), 5) for _ in range(3)], axis=1)
    boxes = [(200 * n, 0, 200, 200) for n in range(3)]
    together = predict_crops(DotDetector(), image, *crop_squares(image, boxes))[0]  # type: ignore[arg-type]
    for n, box in enumerate(boxes):
        assert np.allclose(predict_crops(DotDetector(), image, *crop_squares(image, [box]))[0][0], together[n], atol=1e-4)  # type: ignore[arg-type]


def test_padding() -> None:
    center, side = crop_squares(np.zeros((100, 100, 3), np.uint8), [(10, 20, 30, 40)], padding=1.25)
    assert np.allclose(center, [[25, 40]]) and np.allclose(side, [50])


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        ((0, 0, 0, 10), "no area"),
        ((0, 0, 10, -1), "no area"),
        ((0, 0, np.nan, 5), "not finite"),
        ((0, 0, 1e12, 5), "more than 100 times as large"),
        ((100, 0, 10, 10), "lies outside the image of 100 x 80"),
        ((0, -20, 10, 20), "lies outside"),
    ],
)
def test_impossible_boxes(box: tuple[float, ...], sentence: str) -> None:
    with pytest.raises(HgfastError, match=sentence):
        crop_squares(np.zeros((80, 100, 3), np.uint8), [box])


@pytest.mark.parametrize(("width", "height"), [(200, 200), (301, 170)])
def test_flip_test_makes_predictions_symmetric(width: int, height: int) -> None:
    """A mirrored image gives the mirrored prediction with left and right exchanged, but not without the flip test."""
    torch.manual_seed(2)
    model = build_model(PRESETS["tiny"], Meta(BODY16, Normalization(), 64, "logits", "dark", 0.0)).eval()
    image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mirrored = np.ascontiguousarray(image[:, ::-1])

    def both(flip_test: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        one, other = (predict_crops(model, view, *crop_squares(view), flip_test)[0][0] for view in (image, mirrored))
        back = other[list(BODY16.flip_indices)]
        return one, np.column_stack([width - back[:, 0], back[:, 1:]])

    one, back = both(True)
    assert np.abs(one[:, :2] - back[:, :2]).max() < 0.01
    assert np.abs(one[:, 2] - back[:, 2]).max() < 1e-4
    one, back = both(False)
    assert np.abs(one[:, :2] - back[:, :2]).max() > 1


def test_flip_test_exchanges_left_and_right() -> None:
    """The detector finds joints by color: exchanging green and blue mixes their maps and does not change red."""
    points = np.array([[30.0, 40.0], [80.0, 50.0], [60.0, 100.0]])
    image = torch.tensor(draw_dots(SIZE, SIZE, points, 5).transpose(2, 0, 1)[None] / 255, dtype=torch.float32)
    images = (image - 0.5) / 0.25
    plain, mixed = (forward_heatmaps(DotDetector(), images, flip).detach() for flip in (False, True))  # type: ignore[arg-type]
    assert all(float(plain[0, joint].max()) > 0.5 for joint in range(3))
    wanted = plain.clone()
    wanted[:, 1:] = (plain[:, 1] + plain[:, 2])[:, None] / 2
    assert torch.allclose(mixed, wanted, atol=1e-6) and not torch.allclose(mixed, plain, atol=0.1)
    hand = DotDetector(replace(SKELETON, flip_indices=(0, 1, 2)))  # without sides, the mirrored map is only mirrored back
    assert torch.allclose(forward_heatmaps(hand, images, True), plain, atol=1e-6)  # type: ignore[arg-type]


def test_fp32_is_not_tf32() -> None:
    """Convolutions of a checkpoint in fp32 do not use TF32; afterwards cuDNN's settings are as before."""

    class Watching(DotDetector):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark))
            return super().forward(images)

    seen: list[tuple[bool, bool]] = []
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = True
        predict_crops(Watching(), image, *crop_squares(image))  # type: ignore[arg-type]
        assert seen == [(False, True)] and torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before


def test_flip_test_of_a_network_that_overwrites_its_result() -> None:
    """As with CUDA graphs: every call returns the same memory."""

    class Graphed(DotDetector):
        memory: torch.Tensor | None = None

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            result = super().forward(images)
            self.memory = result.clone() if self.memory is None else self.memory.copy_(result)
            return self.memory

    dots = draw_dots(SIZE, SIZE, np.array([[30.0, 40.0], [80.0, 50.0], [60.0, 100.0]]), 5)
    images = (torch.tensor(dots.transpose(2, 0, 1)[None] / 255, dtype=torch.float32) - 0.5) / 0.25
    with torch.no_grad():
        wanted = forward_heatmaps(DotDetector(), images, True)  # type: ignore[arg-type]
        assert torch.equal(forward_heatmaps(Graphed(), images, True), wanted)  # type: ignore[arg-type]


def test_flip_test_needs_named_joints() -> None:
    nameless = DotDetector(replace(SKELETON, name="points3", flip_indices=(0, 1, 2)))
    with pytest.raises(HgfastError, match=r"convert IN OUT --joints \[left_x"):
        forward_heatmaps(nameless, torch.zeros(1, 3, SIZE, SIZE), True)  # type: ignore[arg-type]
