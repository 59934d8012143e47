"""Conversion of other projects' weights: princeton-vl/pytorch_stacked_hourglass and its forks, and bearpaw/pytorch-pose with
its descendant anibali/pytorch-stacked-hourglass.

The architecture follows from the tensors' shapes. The normalization, which the files do not store, is that of the projects'
code; both trained on the annotations' raw numbers as if these were corner coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from hgfast.architectures import Architecture
from hgfast.errors import HgfastError
from hgfast.model import Head, Hourglass, Residual, StackedHourglass, Stage
from hgfast.normalization import Normalization
from hgfast.skeletons import BODY16, HAND21, Skeleton, anonymous_skeleton

NamePairs = Iterator[tuple[str, str]]
"""hgfast's name and the foreign name of a module with weights."""
NUM_BATCHES_SUFFIX = ".num_batches_tracked"  # BatchNorm's counter; torch before 0.4.1 had none, and nothing reads it

PRINCETON_BODY = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
PRINCETON_HAND = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BEARPAW = Normalization((0.4404, 0.4440, 0.4327), (1.0, 1.0, 1.0))  # its color_normalize only subtracts the mean


@dataclass(frozen=True)
class ConvertedModel:
    """A foreign file's network, converted.

    weights: by hgfast's names. shift: source pixels to add to the predictions (`hgfast.model.Meta`).
    """

    family: str
    arch: Architecture
    weights: dict[str, Tensor]
    skeleton: Skeleton
    normalization: Normalization
    shift: float


def convert_state_dict(content: Any) -> ConvertedModel | None:
    """Convert the content of a foreign file as `torch.load` returns it; None if it is of neither family.

    Raises `HgfastError` with the first tensor that is missing, misshapen or unexpected.
    """
    tensors = _state_dict(content)
    for family in (Princeton, Bearpaw):
        prefixes = {name.removesuffix(family.SIGNATURE) for name in tensors if name.endswith(family.SIGNATURE)}
        if prefixes:
            prefix = min(prefixes, key=len)
            return _convert(family({name.removeprefix(prefix): value for name, value in tensors.items()}))
    return None


def _state_dict(content: Any) -> dict[str, Tensor]:
    """Return the tensors by name of `content`, or of its first dictionary (state_dict, model, net, …) with a known network."""
    candidates = [content, *(content.values() if isinstance(content, dict) else ())]
    for candidate in candidates:
        if isinstance(candidate, dict):
            tensors = {k: v for k, v in candidate.items() if isinstance(k, str) and isinstance(v, Tensor)}
            if any(name.endswith((Princeton.SIGNATURE, Bearpaw.SIGNATURE)) for name in tensors):
                return tensors
    return {}


def _convert(family: Princeton | Bearpaw) -> ConvertedModel:
    arch, joints = family.architecture(), family.shape(family.SCORE)[0]
    with torch.device("meta"):  # a file may claim any shape: no memory is allocated before all tensors fit
        model = StackedHourglass(arch, joints)
    names: dict[str, str] = {}
    unused_names: set[str] = set()
    for native_name, foreign_name in family.modules(model):
        module = model.get_submodule(native_name)
        if isinstance(module, nn.Identity):
            unused_names |= {f"{foreign_name}.weight", f"{foreign_name}.bias"}
        names |= {f"{native_name}.{part}": f"{foreign_name}.{part}" for part in module.state_dict()}
    expected = model.state_dict()
    tensors = {name: value for name, value in family.tensors.items() if name not in unused_names}
    for native_name, foreign_name in names.items():
        if foreign_name.endswith(NUM_BATCHES_SUFFIX):
            tensors.setdefault(foreign_name, torch.zeros_like(expected[native_name], device="cpu"))
    if problem := find_mismatch({foreign_name: expected[native_name] for native_name, foreign_name in names.items()}, tensors):
        raise HgfastError(problem)
    skeleton = {16: BODY16, 21: HAND21}.get(joints) or anonymous_skeleton(joints)
    return ConvertedModel(
        family=family.NAME,
        arch=arch,
        weights={native_name: tensors[foreign_name] for native_name, foreign_name in names.items()},
        skeleton=skeleton,
        normalization=family.normalization(joints),
        shift=-0.5 if skeleton == BODY16 else 0.0,  # MPII counts pixel centers from 1, FreiHAND from the corner
    )


def find_mismatch(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """Describe the first tensor that is missing, misshapen, unusable or unexpected; None if all tensors fit."""
    for name, value in expected.items():
        if name not in tensors:
            return f"the tensor {name} of the shape {tuple(value.shape)} is missing"
        if tensors[name].shape != value.shape:
            return f"the tensor {name} has the shape {tuple(tensors[name].shape)}, the other tensors require {tuple(value.shape)}"
        if tensors[name].is_floating_point() != value.is_floating_point() or tensors[name].is_complex():
            return f"the tensor {name} holds {tensors[name].dtype} numbers, expected {value.dtype}"
    extra = [name for name in tensors if name not in expected]
    if not extra and (problem := _find_undersized_storage([tensors[name] for name in expected])):
        return problem
    for name in expected:
        if not tensors[name].isfinite().all():
            return f"the tensor {name} holds numbers that are not finite: its training diverged"
    return f"the tensor {extra[0]} of the shape {tuple(tensors[extra[0]].shape)} is unexpected" if extra else None


def _find_undersized_storage(tensors: Sequence[Tensor]) -> str | None:
    """Describe tensors whose views repeat a small storage, as a crafted file may have them; None if there are none."""
    claimed_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    storage_bytes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    if claimed_bytes > 2 * sum(storage_bytes.values()):
        return f"the tensors claim {claimed_bytes} bytes and hold {sum(storage_bytes.values())}"
    return None


def expected_state(arch: Architecture, joints: int, num_tensors: int) -> dict[str, Tensor]:
    """Return the names and shapes of a network's weights, on the meta device. Raises ValueError if `num_tensors` are too few."""
    if arch.stacks * arch.depth * arch.blocks > num_tensors:
        raise ValueError(f"{num_tensors} tensors do not make {arch.stacks} stacks of depth {arch.depth}")
    with torch.device("meta"):
        return StackedHourglass(arch, joints).state_dict()


class _Family:
    """A foreign network's tensors by its own names, without the prefixes of wrappers such as DDP."""

    CONV, SKIP = "", ""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def shape(self, name: str) -> tuple[int, int, int, int]:
        """Return the shape of a convolution's weights. Raises `HgfastError` if there is no such tensor."""
        if name not in self.tensors:
            raise HgfastError(f"the tensor {name} is missing")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != 4:
            raise HgfastError(f"the tensor {name} has the shape {shape}, a convolution's has four numbers")
        return shape

    def count_tensors(self, pattern: str) -> int:
        """Count the tensors named `pattern` with 0, 1, 2, … in place of the asterisk."""
        return next(n for n in count() if pattern.replace("*", str(n)) not in self.tensors)

    def residual(self, native_name: str, foreign_name: str) -> NamePairs:
        for n in (1, 2, 3):
            yield f"{native_name}.bn{n}", f"{foreign_name}.bn{n}"
            yield f"{native_name}.conv{n}", f"{foreign_name}.conv{n}{self.CONV}"
        yield f"{native_name}.skip", f"{foreign_name}.{self.SKIP}"


class Princeton(_Family):
    """`exp/NAME/checkpoint.pt` of princeton-vl/pytorch_stacked_hourglass and its forks.

    Every residual block has a skip_layer there; those between equal widths are never used.
    """

    NAME = "princeton-vl"
    SIGNATURE, SCORE = "pre.0.conv.weight", "outs.0.conv.weight"
    CONV, SKIP = ".conv", "skip_layer.conv"

    def architecture(self) -> Architecture:
        features = self.shape(self.SCORE)[1]
        depth = next(n for n in count() if f"hgs.0.0{'.low2' * n}.up1.conv1.conv.weight" not in self.tensors)
        return Architecture(
            stacks=self.count_tensors("outs.*.conv.weight"),
            features=features,
            growth=self.shape("hgs.0.0.low1.conv3.conv.weight")[0] - features,
            depth=depth,
            stem=(
                self.shape(self.SIGNATURE)[0],
                self.shape("pre.1.conv3.conv.weight")[0],
                self.shape("pre.3.conv3.conv.weight")[0],
            ),
        )

    def normalization(self, joints: int) -> Normalization:
        return PRINCETON_HAND if joints == len(HAND21.joints) else PRINCETON_BODY

    def modules(self, model: StackedHourglass) -> NamePairs:
        yield from (("stem.0", "pre.0.conv"), ("stem.1", "pre.0.bn"))
        for native_name, foreign_name in (("stem.3", "pre.1"), ("stem.5", "pre.3"), ("stem.6", "pre.4")):
            yield from self.residual(native_name, foreign_name)
        for n, head, name in _heads(model):
            yield from self._hourglass(head.hourglass, f"{name}.hourglass", f"hgs.{n}.0")
            yield from self.residual(f"{name}.residual", f"features.{n}.0")
            yield from ((f"{name}.linear.0", f"features.{n}.1.conv"), (f"{name}.linear.1", f"features.{n}.1.bn"))
            yield f"{name}.score", f"outs.{n}.conv"
        for n in range(len(model.stages)):
            yield f"stages.{n}.merge_features", f"merge_features.{n}.conv.conv"
            yield f"stages.{n}.merge_heatmaps", f"merge_preds.{n}.conv.conv"

    def _hourglass(self, module: Hourglass, native_name: str, foreign_name: str) -> NamePairs:
        for native_part, foreign_part in (("across", "up1"), ("down", "low1"), ("up", "low3")):
            yield from self.residual(f"{native_name}.{native_part}", f"{foreign_name}.{foreign_part}")
        if isinstance(module.inner, Hourglass):
            yield from self._hourglass(module.inner, f"{native_name}.inner", f"{foreign_name}.low2")
        else:
            yield from self.residual(f"{native_name}.inner", f"{foreign_name}.low2")


class Bearpaw(_Family):
    """`*.pth.tar` of bearpaw/pytorch-pose and `*.pth` of anibali/pytorch-stacked-hourglass."""

    NAME = "bearpaw"
    SIGNATURE, SCORE = "hg.0.hg.0.0.0.conv1.weight", "score.0.weight"
    CONV, SKIP = "", "downsample.0"

    def architecture(self) -> Architecture:
        return Architecture(
            stacks=self.count_tensors("score.*.weight"),
            features=self.shape(self.SCORE)[1],
            depth=self.count_tensors("hg.0.hg.*.0.0.conv1.weight"),
            blocks=self.count_tensors("hg.0.hg.0.0.*.conv1.weight"),
            stem=(self.shape("conv1.weight")[0], self.shape("layer1.0.conv3.weight")[0], self.shape("layer2.0.conv3.weight")[0]),
        )

    def normalization(self, joints: int) -> Normalization:
        return BEARPAW

    def modules(self, model: StackedHourglass) -> NamePairs:
        yield from (("stem.0", "conv1"), ("stem.1", "bn1"))
        for native_name, foreign_name in (("stem.3", "layer1.0"), ("stem.5", "layer2.0"), ("stem.6", "layer3.0")):
            yield from self.residual(native_name, foreign_name)
        for n, _, name in _heads(model):
            path = f"{name}.hourglass"
            for level in reversed(range(model.arch.depth)):  # bearpaw numbers the levels from the innermost
                for number, part in enumerate(("across", "down", "up")):
                    yield from self._chain(model, f"{path}.{part}", f"hg.{n}.hg.{level}.{number}")
                path += ".inner"
            yield from self._chain(model, path, f"hg.{n}.hg.0.3")
            yield from self._chain(model, f"{name}.residual", f"res.{n}")
            yield from ((f"{name}.linear.0", f"fc.{n}.0"), (f"{name}.linear.1", f"fc.{n}.1"))
            yield f"{name}.score", f"score.{n}"
        for n in range(len(model.stages)):
            yield from ((f"stages.{n}.merge_features", f"fc_.{n}"), (f"stages.{n}.merge_heatmaps", f"score_.{n}"))

    def _chain(self, model: StackedHourglass, native_name: str, foreign_name: str) -> NamePairs:
        """Yield the names of `blocks` consecutive residual blocks."""
        if isinstance(model.get_submodule(native_name), Residual):
            yield from self.residual(native_name, f"{foreign_name}.0")
        else:
            for n in range(model.arch.blocks):
                yield from self.residual(f"{native_name}.{n}", f"{foreign_name}.{n}")


def _heads(model: StackedHourglass) -> Iterator[tuple[int, Head, str]]:
    """Yield the number, module and name of every stack's head."""
    for n, stage in enumerate(model.stages):
        assert isinstance(stage, Stage)
        yield n, stage.head, f"stages.{n}.head"
    yield len(model.stages), model.last, "last"
