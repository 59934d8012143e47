"""The export module compared with `hgfast.runtime.torch_predictor`; they share only the network and the decoder."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hgfast.architectures import PRESETS
from hgfast.checkpoints import build_model
from hgfast.errors import HgfastError
from hgfast.export.exporter.export_module import ExportModule, fuse_batch_norms
from hgfast.export.exporter.options import ExportSpec
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.runtime.boxes import crop_squares
from hgfast.runtime.torch_predictor import decode_keypoints, forward_heatmaps, predict_crops
from hgfast.skeletons import BODY16, HAND21, Skeleton, anonymous_skeleton, make_skeleton
from tests.foreign_nets import with_random_statistics

SIDE = 64
UNEVEN_STD = Normalization((0.3, 0.5, 0.6), (0.2, 0.25, 0.3))  # exchanged channels change the result
EYES_SKELETON = make_skeleton("face", ("nose", "left_eye", "right_eye"))


def network(skeleton: Skeleton, kind: str = "gaussian", decoder: str = "dark", stacks: int = 1) -> StackedHourglass:
    torch.manual_seed(2)
    meta = Meta(skeleton, UNEVEN_STD, SIDE, kind, decoder, 0.5, shift=0.25)
    model = build_model(replace(PRESETS["tiny"], stacks=stacks), meta)
    with_random_statistics(model)
    return model


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("decoder", ["argmax", "quarter", "dark"])
@pytest.mark.parametrize("kind", ["gaussian", "logits"])
@pytest.mark.parametrize(
    ("skeleton", "flip_test"),
    [(BODY16, False), (BODY16, True), (HAND21, False), (HAND21, True), (EYES_SKELETON, True), (anonymous_skeleton(14), False)],
)
def test_matches_torch_predictor(images: NDArray[np.uint8], skeleton: Skeleton, flip_test: bool, kind: str, decoder: str) -> None:
    """For uint8 images, one by one, and for normalized ones."""
    model = network(skeleton, kind, decoder)
    outputs = ("keypoints", "heatmaps")
    keypoints, heatmaps = ExportModule(model, ExportSpec(flip_test=flip_test, outputs=outputs))(torch.from_numpy(images))
    assert keypoints.shape == (3, len(skeleton.joints), 3) and heatmaps.shape == (3, len(skeleton.joints), 16, 16)
    assert keypoints.dtype == heatmaps.dtype == torch.float32
    for number, image in enumerate(images):
        found, crops, maps = predict_crops(model, image, *crop_squares(image), flip_test=flip_test)
        assert np.array_equal(crops[0], image)
        assert np.abs(heatmaps[number].numpy() - maps[0]).max() < 1e-5 * np.abs(maps).max()
        moved = found[0] - (model.meta.shift, model.meta.shift, 0)  # predict_crops adds the shift
        assert np.abs(keypoints[number].numpy() - moved).max() < 1e-3
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (UNEVEN_STD.mean, UNEVEN_STD.std))
    normalized = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    spec = ExportSpec(flip_test=flip_test, normalized=True, outputs=outputs)
    with torch.no_grad():
        wanted = forward_heatmaps(model, normalized, flip_test)
        again, maps = ExportModule(model, spec)(normalized)
    assert (maps - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (again - decode_keypoints(model, wanted)).abs().max() < 1e-3


def test_flip_test_averages_both(images: NDArray[np.uint8]) -> None:
    """A mirrored image gives mirrored maps with left and right exchanged, but not without a flip test."""
    model, mirrored = network(BODY16), torch.from_numpy(images[:, :, ::-1].copy())
    for flip_test in (True, False):
        graph = ExportModule(model, ExportSpec(flip_test=flip_test, outputs=("heatmaps",)))
        (straight,), (other,) = graph(torch.from_numpy(images)), graph(mirrored)
        same = torch.allclose(other.flip(-1)[:, list(BODY16.flip_indices)], straight, atol=1e-5 * float(straight.abs().max()))
        assert same == flip_test


def test_the_last_stack_is_given(images: NDArray[np.uint8]) -> None:
    model = network(BODY16, stacks=3)
    (maps,) = ExportModule(model, ExportSpec(normalized=True, outputs=("heatmaps",)))(some := torch.randn(2, 3, SIDE, SIDE))
    with torch.no_grad():
        whole = model(some)
    assert torch.allclose(maps, whole[:, -1], atol=1e-5) and not torch.allclose(maps, whole[:, 0], atol=1e-2)


@pytest.mark.parametrize("outputs", [("keypoints",), ("heatmaps",), ("keypoints", "heatmaps")])
def test_requested_outputs_are_returned(images: NDArray[np.uint8], outputs: tuple[str, ...]) -> None:
    model = network(BODY16)
    both = dict(
        zip(("keypoints", "heatmaps"), ExportModule(model, ExportSpec(outputs=("keypoints", "heatmaps")))(torch.tensor(images)))
    )
    given = ExportModule(model, ExportSpec(outputs=outputs))(torch.tensor(images))
    assert len(given) == len(outputs) and all(torch.equal(value, both[name]) for name, value in zip(outputs, given))


def test_flip_test_needs_named_joints() -> None:
    with pytest.raises(HgfastError, match="left and right, and these have no names"):
        ExportModule(network(anonymous_skeleton(16)), ExportSpec(flip_test=True))


@pytest.mark.parametrize("flip_test", [False, True])
def test_fp16_is_close_and_decodes_in_fp32(images: NDArray[np.uint8], flip_test: bool) -> None:
    model = network(BODY16, "logits")
    graph = ExportModule(model, ExportSpec(fp16=True, flip_test=flip_test, outputs=("keypoints", "heatmaps")))
    assert {value.dtype for value in graph.network.parameters()} == {torch.float16}
    keypoints, maps = graph(torch.from_numpy(images[:1]))
    _, wanted = ExportModule(model, replace(graph.spec, fp16=False))(torch.from_numpy(images[:1]))
    assert keypoints.dtype == maps.dtype == torch.float32
    assert 0 < (maps - wanted).abs().max() < 5e-3 * wanted.abs().max()
    assert torch.equal(keypoints, decode_keypoints(model, maps))  # decoded from these maps, in fp32


@pytest.mark.parametrize("place", ["last.score.weight", "stem.3.bn1.running_var"])
def test_weights_that_fp16_cannot_hold(place: str) -> None:
    model = network(BODY16)
    with torch.no_grad():
        model.state_dict()[place][0] = 1e5
    ExportModule(model, ExportSpec())
    with pytest.raises(HgfastError, match="exceed 65504, the largest number in fp16: use fp32"):
        ExportModule(model, ExportSpec(fp16=True))


def test_model_is_not_changed() -> None:
    model: Any = network(BODY16).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = ExportModule(model, ExportSpec(fp16=True))
    assert model.training and all(value.requires_grad for value in model.parameters())
    assert not graph.training and not graph.network.training
    assert all(
        value.dtype == before[name].dtype and torch.equal(value, before[name]) for name, value in model.state_dict().items()
    )


def test_fusing_batch_norms_keeps_outputs() -> None:
    """There are no BatchNorms after convolutions, and the heatmaps are the same."""
    torch.manual_seed(2)
    meta = Meta(BODY16, Normalization(), 64, "logits", "dark", 0.0)
    model = build_model(PRESETS["tiny"], meta)
    with_random_statistics(model)
    images = torch.randn(2, 3, 64, 64)
    folded = copy.deepcopy(model).eval()
    fuse_batch_norms(folded)
    with torch.inference_mode():
        before, after = model.eval().forward_last_stack(images), folded.forward_last_stack(images)
    assert (before - after).abs().max() < 1e-5 * before.abs().max()
    left = [name for name, part in folded.named_modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert left and all(name.endswith("bn1") for name in left)
