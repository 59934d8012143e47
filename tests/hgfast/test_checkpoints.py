"""Checkpoints: round trips, failed writes, and files whose code must not run."""

from __future__ import annotations

import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

from hgfast import load_model
from hgfast.architectures import architecture
from hgfast.checkpoints import build_model, model_state, read, save
from hgfast.errors import HgfastError
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.skeletons import HAND21


@pytest.fixture
def model() -> StackedHourglass:
    meta = Meta(HAND21, Normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), 64, "logits", "dark", 0.5)
    return build_model(architecture("tiny", stacks=2), meta).eval()


def test_round_trip(model: StackedHourglass, tmp_path: Path) -> None:
    save(model_state(model), tmp_path / "a.pt")
    again = load_model(tmp_path / "a.pt")
    images = torch.randn(2, 3, 64, 64)
    assert not again.training
    assert again.meta == model.meta and again.arch == model.arch
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("max_bytes", [0, 600, 50_000])
def test_failed_write_keeps_previous_file(model: StackedHourglass, tmp_path: Path, max_bytes: int) -> None:
    """The operating system limits the size of files; torch's writer reports some of its errors as positions in the file."""
    path = tmp_path / "a.pt"
    save({"format": 1, "old": True}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        with pytest.raises(HgfastError, match=r"a\.pt \(\[Errno 27\] File too large\): free some space"):
            save(model_state(model), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read(path) == {"format": 1, "old": True}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "weights": Bomb()}, "evil.pt")
    Path("worse.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("evil.pt", "worse.pt"):
        with pytest.raises(HgfastError, match="cannot be read"):
            load_model(name)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short", b"exp: demo\nbatch_size: 32\n", b"."])
def test_broken_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(HgfastError, match=r"broken\.pt cannot be read"):
        load_model(tmp_path / "broken.pt")


def test_missing_and_foreign_files(model: StackedHourglass, tmp_path: Path) -> None:
    with pytest.raises(HgfastError, match="no checkpoint at"):
        load_model(tmp_path / "nothing.pt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(HgfastError, match="not an hgfast checkpoint"):
        load_model(tmp_path / "foreign.pt")
    with pytest.raises(HgfastError, match="no checkpoint at"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("architecture", "features", 32),
        ("architecture", "stem", [8]),
        ("architecture", "wings", 2),
        ("meta", "skeleton", "hand"),
        ("meta", "decoder", "soft"),
        ("meta", "preprocessing", 3),
    ],
)
def test_mismatched_content(model: StackedHourglass, tmp_path: Path, part: str, key: str, value: object) -> None:
    content = model_state(model)
    content[part][key] = value
    torch.save(content, tmp_path / "mismatch.pt")
    with pytest.raises(HgfastError, match=r"mismatch\.pt does not describe a network"):
        load_model(tmp_path / "mismatch.pt")
