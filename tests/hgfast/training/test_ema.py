"""The moving average against its recurrence in numpy, and what an update may and may not do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hgfast.architectures import PRESETS
from hgfast.checkpoints import build_model
from hgfast.config import Config
from hgfast.errors import HgfastError
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.skeletons import HAND21
from hgfast.training.ema import ModelEma, ema_decay
from tests.gpu import DEVICES, refuse_synchronization


@pytest.fixture
def model() -> StackedHourglass:
    return build_model(PRESETS["tiny"], Meta(HAND21, Normalization(), 64, "logits", "dark", 0.0))


@pytest.mark.parametrize("decay", [0.5, 0.999])  # the first is reached at update 18
def test_ema_matches_recurrence(model: StackedHourglass, decay: float) -> None:
    rng = np.random.default_rng(0)
    wanted = {name: value.double().numpy().copy() for name, value in model.state_dict().items()}
    average = ModelEma(model, decay)
    for update in range(25):
        keep = min(decay, (1 + update) / (20 + update))
        for name, value in model.state_dict().items():
            new = rng.normal(size=tuple(value.shape)) if value.is_floating_point() else np.asarray(rng.integers(2**40))
            value.copy_(torch.from_numpy(new))
            wanted[name] = keep * wanted[name] + (1 - keep) * new if value.is_floating_point() else new
        average.update()
    found = average.module.state_dict()
    assert average.updates == 25
    assert {name.rpartition(".")[2] for name in wanted} == {
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    for name, value in found.items():
        if value.is_floating_point():
            assert np.allclose(value.numpy(), wanted[name], rtol=1e-5, atol=1e-6), name
        else:
            assert value.item() == wanted[name], name


def test_decay_grows_to_its_limit() -> None:
    decays = [ema_decay(update, 0.999) for update in range(30_000)]
    assert decays[0] == 0.05
    assert decays == sorted(decays)
    assert decays[18_979] < 0.999 == decays[18_981]


def test_ema_is_a_separate_model(model: StackedHourglass) -> None:
    average = ModelEma(model.train(), 0.9)
    network = average.module
    assert isinstance(network, StackedHourglass)
    assert (network.arch, network.meta) == (model.arch, model.meta)
    assert not any(module.training for module in network.modules()) and all(module.training for module in model.modules())
    assert not any(p.requires_grad for p in network.parameters()) and all(p.requires_grad for p in model.parameters())
    for (name, one), other in zip(network.state_dict().items(), model.state_dict().values()):
        assert torch.equal(one, other) and one.stride() == other.stride() and one.data_ptr() != other.data_ptr(), name

    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
    average.update()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_update_is_asynchronous_and_batched(model: StackedHourglass) -> None:
    """Reading a tensor's value or moving it to another device would appear as an operation."""
    called: list[str] = []

    class Note(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            called.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    average = ModelEma(model, 0.9)
    with Note():
        average.update()
    assert called == ["aten::_foreach_lerp_", "aten::_foreach_copy_"]


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    config = Config()
    config.train.ema = decay
    with pytest.raises(HgfastError, match=r"train\.ema is .*, must be (in \[0, 1\)|finite)"):
        config.validate()


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_an_update_does_not_synchronize(model: StackedHourglass, device: torch.device) -> None:
    average = ModelEma(model.to(device), 0.9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    with refuse_synchronization(device):
        average.update()
    for one, other in zip(average.module.parameters(), model.parameters()):
        assert one.device == device and torch.allclose(one, other - 0.05, atol=1e-5)


def test_torchs_warning_about_the_debug_mode_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    def set_mode(mode: str) -> None:
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all operations", stacklevel=1)
        modes.append(mode)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with pytest.raises(UserWarning, match="prototype"):
        set_mode("error")
    with pytest.raises(ValueError, match="inside"), refuse_synchronization(torch.device("cuda", 0)):
        raise ValueError("inside")
    assert modes == ["error", "default"]
