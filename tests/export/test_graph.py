"""The deployed graph in torch beside `hgfast.inference`, which shares nothing with it but the network and the decoder."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[2] / "export"))  # where Python looks for the modules beside a script
sys.path.append(str(Path(__file__).parents[1] / "hgfast"))

from foreign_nets import lived_in
from graph import Deployed, Wiring, fold

from hgfast.checkpoints import build
from hgfast.errors import HgfastError
from hgfast.foreign import nameless
from hgfast.inference import keypoints_of, last_heatmaps, look, squares
from hgfast.model import PRESETS, Meta, StackedHourglass
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import BODY16, HAND21, Skeleton, make_skeleton

SIDE = 64
UNEVEN = Preprocessing((0.3, 0.5, 0.6), (0.2, 0.25, 0.3))  # channels that are exchanged show
EYES = make_skeleton("face", ("nose", "left_eye", "right_eye"))


def network(skeleton: Skeleton, kind: str = "gaussian", decoder: str = "dark", stacks: int = 1) -> StackedHourglass:
    torch.manual_seed(2)
    meta = Meta(skeleton, UNEVEN, SIDE, kind, decoder, 0.5, shift=0.25)
    model = build(replace(PRESETS["tiny"], stacks=stacks), meta)
    lived_in(model)
    return model


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("decoder", ["argmax", "quarter", "dark"])
@pytest.mark.parametrize("kind", ["gaussian", "logits"])
@pytest.mark.parametrize(
    ("skeleton", "flip_test"),
    [(BODY16, False), (BODY16, True), (HAND21, False), (HAND21, True), (EYES, True), (nameless(14), False)],
)
def test_is_what_inference_finds(images: NDArray[np.uint8], skeleton: Skeleton, flip_test: bool, kind: str, decoder: str) -> None:
    """For uint8 pictures one by one as `look` sees them, and for normalised ones."""
    model = network(skeleton, kind, decoder)
    outputs = ("keypoints", "heatmaps")
    keypoints, heatmaps = Deployed(model, Wiring(flip_test=flip_test, outputs=outputs))(torch.from_numpy(images))
    assert keypoints.shape == (3, len(skeleton.joints), 3) and heatmaps.shape == (3, len(skeleton.joints), 16, 16)
    assert keypoints.dtype == heatmaps.dtype == torch.float32
    for number, image in enumerate(images):
        found, crops, maps = look(model, image, *squares(image), flip_test=flip_test)
        assert np.array_equal(crops[0], image)
        assert np.abs(heatmaps[number].numpy() - maps[0]).max() < 1e-5 * np.abs(maps).max()
        moved = found[0] - (model.meta.shift, model.meta.shift, 0)  # `look` adds it; an artefact's user does
        assert np.abs(keypoints[number].numpy() - moved).max() < 1e-3
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (UNEVEN.mean, UNEVEN.std))
    normalised = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    wiring = Wiring(flip_test=flip_test, normalised=True, outputs=outputs)
    with torch.no_grad():
        wanted = last_heatmaps(model, normalised, flip_test)
        again, maps = Deployed(model, wiring)(normalised)
    assert (maps - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (again - keypoints_of(model, wanted)).abs().max() < 1e-3


def test_a_flip_test_sees_both_ways(images: NDArray[np.uint8]) -> None:
    """A mirrored picture gives the mirrored maps, left and right exchanged; without a flip test it does not."""
    model, mirrored = network(BODY16), torch.from_numpy(images[:, :, ::-1].copy())
    for flip_test in (True, False):
        graph = Deployed(model, Wiring(flip_test=flip_test, outputs=("heatmaps",)))
        (straight,), (other,) = graph(torch.from_numpy(images)), graph(mirrored)
        same = torch.allclose(other.flip(-1)[:, list(BODY16.swap)], straight, atol=1e-5 * float(straight.abs().max()))
        assert same == flip_test


def test_the_last_stack_is_given(images: NDArray[np.uint8]) -> None:
    model = network(BODY16, stacks=3)
    (maps,) = Deployed(model, Wiring(normalised=True, outputs=("heatmaps",)))(some := torch.randn(2, 3, SIDE, SIDE))
    with torch.no_grad():
        whole = model(some)
    assert torch.allclose(maps, whole[:, -1], atol=1e-5) and not torch.allclose(maps, whole[:, 0], atol=1e-2)


@pytest.mark.parametrize("outputs", [("keypoints",), ("heatmaps",), ("keypoints", "heatmaps")])
def test_outputs_are_what_is_asked_for(images: NDArray[np.uint8], outputs: tuple[str, ...]) -> None:
    model = network(BODY16)
    both = dict(zip(("keypoints", "heatmaps"), Deployed(model, Wiring(outputs=("keypoints", "heatmaps")))(torch.tensor(images))))
    given = Deployed(model, Wiring(outputs=outputs))(torch.tensor(images))
    assert len(given) == len(outputs) and all(torch.equal(value, both[name]) for name, value in zip(outputs, given))


def test_joints_without_names_have_no_sides() -> None:
    with pytest.raises(HgfastError, match="left and right, and these have no names"):
        Deployed(network(nameless(16)), Wiring(flip_test=True))


@pytest.mark.parametrize("flip_test", [False, True])
def test_half_is_near_and_leaves_the_ends_alone(images: NDArray[np.uint8], flip_test: bool) -> None:
    model = network(BODY16, "logits")
    graph = Deployed(model, Wiring(half=True, flip_test=flip_test, outputs=("keypoints", "heatmaps")))
    assert {value.dtype for value in graph.network.parameters()} == {torch.float16}
    keypoints, maps = graph(torch.from_numpy(images[:1]))
    _, wanted = Deployed(model, replace(graph.wiring, half=False))(torch.from_numpy(images[:1]))
    assert keypoints.dtype == maps.dtype == torch.float32
    assert 0 < (maps - wanted).abs().max() < 5e-3 * wanted.abs().max()
    assert torch.equal(keypoints, keypoints_of(model, maps))  # decoded from these maps, in fp32


@pytest.mark.parametrize("place", ["last.score.weight", "stem.3.bn1.running_var"])
def test_weights_that_fp16_cannot_hold(place: str) -> None:
    model = network(BODY16)
    with torch.no_grad():
        model.state_dict()[place][0] = 1e5
    Deployed(model, Wiring())
    with pytest.raises(HgfastError, match="too large for fp16, whose largest number is 65504: use fp32"):
        Deployed(model, Wiring(half=True))


def test_the_given_model_stays_as_it_was() -> None:
    model: Any = network(BODY16).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = Deployed(model, Wiring(half=True))
    assert model.training and all(value.requires_grad for value in model.parameters())
    assert not graph.training and not graph.network.training
    assert all(
        value.dtype == before[name].dtype and torch.equal(value, before[name]) for name, value in model.state_dict().items()
    )


def test_folding_changes_nothing() -> None:
    """BatchNorms after convolutions are gone, and the heatmaps are the same."""
    torch.manual_seed(2)
    meta = Meta(BODY16, Preprocessing(), 64, "logits", "dark", 0.0)
    model = build(PRESETS["tiny"], meta)
    lived_in(model)
    images = torch.randn(2, 3, 64, 64)
    folded = copy.deepcopy(model).eval()
    fold(folded)
    with torch.inference_mode():
        before, after = model.eval().last_stack(images), folded.last_stack(images)
    assert (before - after).abs().max() < 1e-5 * before.abs().max()
    left = [name for name, part in folded.named_modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert left and all(name.endswith("bn1") for name in left)
