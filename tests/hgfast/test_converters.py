"""Other projects' weights: the stored outputs of their code, networks of other sizes, and incomplete files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hgfast import load_model
from hgfast.architectures import Architecture
from hgfast.checkpoints import model_state, save
from hgfast.convert import ConvertConfig, convert, main
from hgfast.errors import HgfastError
from hgfast.geometry import crop_matrices, warp
from hgfast.model import StackedHourglass
from hgfast.runtime.boxes import crop_squares
from hgfast.runtime.torch_predictor import predict_crops
from hgfast.skeletons import BODY16, HAND21
from tests.conftest import shared_path
from tests.foreign_nets import BearpawNet, PrincetonNet, prefixed_state, with_random_statistics


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("weights", "outputs", "images"),
    [
        ("princeton_2hg_dim32.pt", "princeton_2hg_dim32.npz", "image_nhwc"),
        ("bearpaw_2hg_feats16.pth.tar", "bearpaw_2hg_feats16.npz", "image_nchw"),
    ],
)
def test_stored_outputs(weights: str, outputs: str, images: str) -> None:
    """All stacks' heatmaps equal those of the projects' code; measured 3e-7 and 7e-7 of the largest value."""
    z = np.load(shared_path(f"reference/{outputs}"))
    inputs = z[images].transpose(0, 3, 1, 2) if images.endswith("nhwc") else z[images]
    with torch.no_grad():
        found = load_model(shared_path(f"reference/{weights}"))(torch.tensor(inputs)).numpy()
    assert found.shape == z["heatmaps"].shape
    assert np.abs(found - z["heatmaps"]).max() < 1e-5 * np.abs(z["heatmaps"]).max()


SEEDS: list[dict[str, Any]] = [
    {"stacks": 1, "features": 16, "joints": 16},
    {"stacks": 3, "features": 48, "joints": 21, "increase": 8},
    {"stacks": 2, "features": 24, "joints": 14, "depth": 3},
]
BEARPAWS: list[dict[str, Any]] = [
    {"stacks": 1, "planes": 8, "joints": 16},
    {"stacks": 3, "planes": 12, "joints": 21, "inplanes": 16},
    {"stacks": 2, "planes": 8, "joints": 17, "blocks": 3, "depth": 3},
    {"stacks": 1, "planes": 128, "joints": 16, "depth": 2},  # the original width: layer3 needs no downsample
]


@pytest.mark.parametrize(("family", "size"), [(PrincetonNet, s) for s in SEEDS] + [(BearpawNet, s) for s in BEARPAWS])
@pytest.mark.parametrize("prefix", ["model.module.", "module.", "model.", ""])
def test_any_size_under_any_prefix(family: Callable[..., nn.Module], size: dict[str, Any], prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = with_random_statistics(family(**size))
    torch.save({"state_dict": prefixed_state(net, prefix), "epoch": 3}, tmp_path / "theirs.pt")
    model = load_model(tmp_path / "theirs.pt")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted, found = net(images), model(images)
    assert found.shape == wanted.shape == (2, size["stacks"], size["joints"], 16, 16)
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert len(model.meta.skeleton.joints) == size["joints"]
    assert (model.meta.pixel_offset, model.meta.heatmap_kind) == (0.0, "gaussian")


def save_weights(net: nn.Module, path: Path, change: Callable[[dict[str, Tensor]], object] = lambda _: None) -> Path:
    weights = prefixed_state(net, "model.module.")
    change(weights)
    torch.save({"state_dict": weights, "optimizer": {}, "epoch": 7}, path)
    return path


def test_implied_metadata(tmp_path: Path) -> None:
    """Bodies in [0, 1] and hands in [-1, 1] for princeton-vl, minus the mean alone for bearpaw; MPII counts from 1."""
    body = load_model(save_weights(PrincetonNet(1, 16, 16), tmp_path / "a.pt")).meta
    hand = load_model(save_weights(PrincetonNet(1, 16, 21), tmp_path / "b.pt")).meta
    bear = load_model(save_weights(BearpawNet(1, 8, 16), tmp_path / "c.pt")).meta
    assert (body.skeleton, hand.skeleton, bear.skeleton) == (BODY16, HAND21, BODY16)
    assert (body.normalization.mean, body.normalization.std) == ((0, 0, 0), (1, 1, 1))
    assert (hand.normalization.mean, hand.normalization.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (bear.normalization.mean, bear.normalization.std) == ((0.4404, 0.444, 0.4327), (1, 1, 1))
    assert (body.shift, hand.shift, bear.shift) == (-0.5, 0, -0.5)
    assert body.input_size == 256 and {meta.decoder for meta in (body, hand, bear)} == {"dark"}
    lsp = load_model(save_weights(PrincetonNet(1, 16, 14), tmp_path / "d.pt")).meta
    assert (lsp.skeleton.name, lsp.shift, lsp.normalization) == ("points14", 0, body.normalization)


def test_shift_is_half_a_source_pixel(tmp_path: Path) -> None:
    """As the decoder has it, less half a pixel of the photograph, whatever its size: checked from the maps themselves."""
    torch.manual_seed(1)
    net = PrincetonNet(1, 16, 16)
    model = load_model(save_weights(net, tmp_path / "a.pt"))
    model.meta = type(model.meta)(**{**vars(model.meta), "input_size": 64, "decoder": "argmax"})
    image = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    center, side = crop_squares(image)
    found, crops, heatmaps = predict_crops(model, image, center, side)
    assert np.array_equal(crops[0], warp(image, crop_matrices(center, side, 64)[0], 64))
    with torch.no_grad():
        maps = net.eval()(torch.tensor(crops).permute(0, 3, 1, 2) / 255)[0, -1]
    assert np.abs(maps.numpy() - heatmaps[0]).max() < 1e-5
    best = maps.flatten(1).argmax(-1)
    cells = torch.stack((best % 16, best // 16), -1).numpy() + 0.5
    assert found[0, :, :2] == pytest.approx(cells * (300 / 16) + center - 150 - 0.5)


def drop_tensor(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights.pop(f"model.module.{name}")


def set_tensor(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights.update({f"model.module.{name}": value})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            drop_tensor("hgs.1.0.low2.low1.conv2.conv.bias"),
            r"hgs\.1\.0\.low2\.low1\.conv2\.conv\.bias of the shape \(8,\) is missing",
        ),
        (drop_tensor("pre.1.skip_layer.conv.weight"), r"pre\.1\.skip_layer\.conv\.weight .*missing"),
        (drop_tensor("outs.0.conv.weight"), r"outs\.0\.conv\.weight is missing"),
        (
            set_tensor("merge_preds.1.conv.conv.bias", torch.zeros(2)),
            r"the tensor merge_preds\.1\.conv\.conv\.bias of the shape \(2,\) is unexpected",
        ),
        (
            set_tensor("features.0.1.conv.weight", torch.zeros(16, 4, 1, 1)),
            r"features\.0\.1\.conv\.weight has the shape \(16, 4, 1, 1\)",
        ),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(
    change: Callable[[dict[str, Tensor]], object], sentence: str, tmp_path: Path
) -> None:
    path = save_weights(PrincetonNet(2, 16, 16), tmp_path / "broken.pt", change)
    with pytest.raises(HgfastError, match=rf"broken\.pt is not a whole stacked hourglass: .*{sentence}"):
        load_model(path)


@pytest.mark.parametrize("wrap", [lambda sd: {"model": sd}, lambda sd: {"net": sd, "lr": 0.1}, lambda sd: {**sd, "epoch": 3}])
def test_wherever_the_tensors_are(wrap: Callable[[dict[str, Tensor]], dict[str, Any]], tmp_path: Path) -> None:
    torch.save(wrap(PrincetonNet(1, 16, 16).state_dict()), tmp_path / "a.pt")
    assert load_model(tmp_path / "a.pt").arch.stacks == 1


def test_decoder_override(tmp_path: Path) -> None:
    path = save_weights(PrincetonNet(1, 16, 16), tmp_path / "a.pt")
    assert load_model(path, decoder="quarter").meta.decoder == "quarter"


def test_half_precision_weights_are_taken_as_they_are(tmp_path: Path) -> None:
    net = PrincetonNet(1, 16, 16)
    path = save_weights(
        net, tmp_path / "a.pt", lambda weights: weights.update({k: v.half() for k, v in weights.items() if v.is_floating_point()})
    )
    assert load_model(path).last.score.weight.dtype == torch.float32


def test_a_cut_file_of_an_old_version(tmp_path: Path) -> None:
    torch.save({"state_dict": PrincetonNet(1, 16, 16).state_dict()}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "a.pt").read_bytes()
    for share in (0.001, 0.04, 0.1, 0.5, 0.99):
        (tmp_path / "b.pt").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(HgfastError, match=r"b\.pt cannot be read as a checkpoint"):
            load_model(tmp_path / "b.pt")


def test_skip_layers_that_nothing_uses_may_be_absent(tmp_path: Path) -> None:
    path = save_weights(PrincetonNet(1, 16, 16), tmp_path / "a.pt", drop_tensor("pre.3.skip_layer.conv.weight"))
    assert load_model(path).arch.stacks == 1


def test_files_of_old_versions(tmp_path: Path) -> None:
    """torch before 0.4.1 had no num_batches_tracked; accuracies were stored as numpy scalars; files were no archives."""
    net = with_random_statistics(BearpawNet(1, 8, 16))
    weights = {name: value for name, value in prefixed_state(net, "module.").items() if "num_batches" not in name}
    content = {"state_dict": weights, "best_acc": np.float64(0.87), "epoch": np.int64(3), "optimizer": {"lr": np.float32(1e-3)}}
    torch.save(content, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(load_model(tmp_path / "old.pth.tar")(images), net(images), atol=1e-5)


def run_convert(source: Path, out: Path, **changes: Any) -> None:
    convert(ConvertConfig(source=source, out=out, **changes))


def test_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A native file with the same network, which any entry point reads; not twice over what is there."""
    theirs, ours = save_weights(PrincetonNet(2, 16, 16), tmp_path / "theirs.pt"), tmp_path / "folder" / "ours.pt"
    monkeypatch.setattr(sys, "argv", ["convert.py", str(theirs), "--input-size", "128", str(ours)])
    main()
    printed = capsys.readouterr().out
    assert "princeton-vl weights, 2 stacks, 16 features" in printed and "pixel_offset 0, shift -0.5" in printed
    assert torch.load(ours, weights_only=True)["format"] == 1
    one, other = load_model(theirs), load_model(ours)
    assert other.meta.input_size == other.arch.input_size == 128
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(one(images), other(images))
    with pytest.raises(HgfastError, match="--overwrite"):
        run_convert(theirs, ours)
    with pytest.raises(HgfastError, match="multiple of 64"):
        run_convert(theirs, tmp_path / "b.pt", input_size=100)
    assert not (tmp_path / "b.pt").exists()


def test_convert_names_joints(tmp_path: Path) -> None:
    theirs = save_weights(PrincetonNet(1, 16, 3), tmp_path / "theirs.pt")
    run_convert(theirs, tmp_path / "a.pt", joints=["nose", "left_eye", "right_eye"])
    assert load_model(tmp_path / "a.pt").meta.skeleton.flip_indices == (0, 2, 1)
    assert load_model(tmp_path / "a.pt").meta.skeleton.name == "named3"
    with pytest.raises(HgfastError, match="names 2 joints, the weights have 3"):
        run_convert(theirs, tmp_path / "b.pt", joints=["nose", "left_eye"])
    with pytest.raises(HgfastError, match="the weights have named3"):
        run_convert(tmp_path / "a.pt", tmp_path / "c.pt", joints=["a", "b", "c"])
    run_convert(theirs, tmp_path / "d.pt", mean=(0.4, 0.5, 0.6), std=(1, 1, 2), shift=0.25, decoder="quarter")
    meta = load_model(tmp_path / "d.pt").meta
    assert (meta.normalization.mean, meta.normalization.std) == ((0.4, 0.5, 0.6), (1, 1, 2))
    assert (meta.shift, meta.decoder) == (0.25, "quarter")


def test_convert_leaves_training_behind(tmp_path: Path) -> None:
    """Of a checkpoint in the middle of training, the averaged weights; without them, those trained."""
    model = StackedHourglass(Architecture(features=16, depth=3, stem=(8, 16, 16), input_size=64), 21)
    model.meta = load_model(save_weights(PrincetonNet(1, 16, 21), tmp_path / "hand.pt")).meta
    content = model_state(model)
    averaged = {name: value + 1 if value.is_floating_point() else value for name, value in content["weights"].items()}
    save(content | {"ema": averaged, "training": {"optimizer": {}}}, tmp_path / "a.pt")
    run_convert(tmp_path / "a.pt", tmp_path / "b.pt")
    written = torch.load(tmp_path / "b.pt", weights_only=True)
    assert not {"ema", "training"} & set(written)
    assert all(torch.equal(written["weights"][name], averaged[name]) for name in averaged)
