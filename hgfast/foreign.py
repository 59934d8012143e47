"""Other projects' weights under our names: princeton-vl/pytorch_stacked_hourglass and its forks ("the seed"), and
bearpaw/pytorch-pose with its descendant anibali/pytorch-stacked-hourglass.

The architecture is read from the shapes. What the files do not hold is known of the projects: the normalisation, and that
they were trained on their annotations' raw numbers as if these were corner coordinates.
What may enter: names, shapes and habits of a foreign family of stacked hourglasses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from hgfast.errors import HgfastError
from hgfast.model import Architecture, Head, Hourglass, Residual, StackedHourglass, Stage
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import BODY16, HAND21, Skeleton, make_skeleton

Pairs = Iterator[tuple[str, str]]
"""Our name and theirs of a module that holds weights."""
NAMELESS = "points"  # how the name of a skeleton begins whose joints have none
COUNTER = ".num_batches_tracked"  # of BatchNorm; torch before 0.4.1 had none, and nothing reads it

PRINCETON_BODY = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
PRINCETON_HAND = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BEARPAW = Preprocessing((0.4404, 0.4440, 0.4327), (1.0, 1.0, 1.0))  # its color_normalize takes the mean off and no more


@dataclass(frozen=True)
class Foreign:
    """A foreign file's network, in our terms.

    weights: by our names. shift: source pixels to be added to what it predicts (`hgfast.model.Meta`).
    """

    family: str
    arch: Architecture
    weights: dict[str, Tensor]
    skeleton: Skeleton
    preprocessing: Preprocessing
    shift: float


def translate(content: Any) -> Foreign | None:
    """The network in what `torch.load` gave, or None where it is of neither family.

    Raises:
        HgfastError: it is of one, but not whole: names the first tensor that is missing, misshapen or too many.
    """
    tensors = _state_dict(content)
    for family in (Princeton, Bearpaw):
        prefixes = {name.removesuffix(family.ANCHOR) for name in tensors if name.endswith(family.ANCHOR)}
        if prefixes:
            prefix = min(prefixes, key=len)
            return _translate(family({name.removeprefix(prefix): value for name, value in tensors.items()}))
    return None


def _state_dict(content: Any) -> dict[str, Tensor]:
    """The tensors by name in `content`, or in the first dictionary in it (called state_dict, model, net, …) that has a
    family's; what else is beside them is left out."""
    candidates = [content, *(content.values() if isinstance(content, dict) else ())]
    for candidate in candidates:
        if isinstance(candidate, dict):
            found = {k: v for k, v in candidate.items() if isinstance(k, str) and isinstance(v, Tensor)}
            if any(name.endswith((Princeton.ANCHOR, Bearpaw.ANCHOR)) for name in found):
                return found
    return {}


def _translate(theirs: Princeton | Bearpaw) -> Foreign:
    arch, joints = theirs.architecture(), theirs.shape(theirs.SCORE)[0]
    with torch.device("meta"):  # a file may claim any shape: nothing is made of it before all fit
        model = StackedHourglass(arch, joints)
    names: dict[str, str] = {}
    unused: set[str] = set()
    for ours, other in theirs.modules(model):
        module = model.get_submodule(ours)
        if isinstance(module, nn.Identity):
            unused |= {f"{other}.weight", f"{other}.bias"}
        names |= {f"{ours}.{part}": f"{other}.{part}" for part in module.state_dict()}
    wanted = model.state_dict()
    found = {name: value for name, value in theirs.tensors.items() if name not in unused}
    for ours, other in names.items():
        if other.endswith(COUNTER):
            found.setdefault(other, torch.zeros_like(wanted[ours], device="cpu"))
    if problem := misfit({other: wanted[ours] for ours, other in names.items()}, found):
        raise HgfastError(problem)
    skeleton = {16: BODY16, 21: HAND21}.get(joints) or nameless(joints)
    return Foreign(
        family=theirs.NAME,
        arch=arch,
        weights={ours: found[other] for ours, other in names.items()},
        skeleton=skeleton,
        preprocessing=theirs.preprocessing(joints),
        shift=-0.5 if skeleton == BODY16 else 0.0,  # MPII counts pixel centres from 1, FreiHAND from the corner
    )


def misfit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the first tensor that is missing, misshapen, of no use or too many, or None where all fit."""
    for name, value in wanted.items():
        if name not in found:
            return f"the tensor {name} of the shape {tuple(value.shape)} is missing"
        if found[name].shape != value.shape:
            return f"the tensor {name} has the shape {tuple(found[name].shape)}, the others ask for {tuple(value.shape)}"
        if found[name].is_floating_point() != value.is_floating_point() or found[name].is_complex():
            return f"the tensor {name} holds {found[name].dtype} numbers, wanted {value.dtype}"
    extra = [name for name in found if name not in wanted]
    if not extra and (problem := _hollow([found[name] for name in wanted])):
        return problem
    for name in wanted:
        if not found[name].isfinite().all():
            return f"the tensor {name} holds numbers that are not finite: training had gone wrong"
    return f"there is no place for the tensor {extra[0]} of the shape {tuple(found[extra[0]].shape)}" if extra else None


def _hollow(tensors: Sequence[Tensor]) -> str | None:
    """What is wrong with tensors that show the same few numbers again and again, as a file of any size may have them."""
    shown = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    if shown > 2 * sum(held.values()):
        return f"the tensors claim {shown} bytes and hold {sum(held.values())}"
    return None


def outline(arch: Architecture, joints: int, tensors: int) -> dict[str, Tensor]:
    """The names and shapes of a network's weights, without the memory for them.

    Raises:
        ValueError: a network that so many tensors cannot make.
    """
    if arch.stacks * arch.depth * arch.blocks > tensors:
        raise ValueError(f"{tensors} tensors do not make {arch.stacks} stacks of depth {arch.depth}")
    with torch.device("meta"):
        return StackedHourglass(arch, joints).state_dict()


def nameless(joints: int) -> Skeleton:
    """What is known of joints that no data set of that number is known for."""
    return make_skeleton(f"{NAMELESS}{joints}", [f"point{n}" for n in range(joints)])


def is_nameless(skeleton: Skeleton) -> bool:
    """Is it one of `nameless`, so that nobody knows which joints are left and right, or in which order?"""
    return skeleton.name.startswith(NAMELESS)


class _Family:
    """A family's tensors by its own names, without the prefixes that wrappers put before them."""

    CONV, SKIP = "", ""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def shape(self, name: str) -> tuple[int, int, int, int]:
        """Of a convolution's weights. Raises `HgfastError` where there are none."""
        if name not in self.tensors:
            raise HgfastError(f"the tensor {name} is missing")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != 4:
            raise HgfastError(f"the tensor {name} has the shape {shape}, a convolution's has four numbers")
        return shape

    def many(self, pattern: str) -> int:
        """How many tensors there are called `pattern` with 0, 1, 2, … in place of the star."""
        return next(n for n in count() if pattern.replace("*", str(n)) not in self.tensors)

    def residual(self, ours: str, theirs: str) -> Pairs:
        for n in (1, 2, 3):
            yield f"{ours}.bn{n}", f"{theirs}.bn{n}"
            yield f"{ours}.conv{n}", f"{theirs}.conv{n}{self.CONV}"
        yield f"{ours}.skip", f"{theirs}.{self.SKIP}"


class Princeton(_Family):
    """`exp/NAME/checkpoint.pt` of princeton-vl/pytorch_stacked_hourglass and its forks.

    Every residual has a skip_layer there; those between equal widths are never used.
    """

    NAME = "princeton-vl"
    ANCHOR, SCORE = "pre.0.conv.weight", "outs.0.conv.weight"
    CONV, SKIP = ".conv", "skip_layer.conv"

    def architecture(self) -> Architecture:
        features = self.shape(self.SCORE)[1]
        depth = next(n for n in count() if f"hgs.0.0{'.low2' * n}.up1.conv1.conv.weight" not in self.tensors)
        return Architecture(
            stacks=self.many("outs.*.conv.weight"),
            features=features,
            growth=self.shape("hgs.0.0.low1.conv3.conv.weight")[0] - features,
            depth=depth,
            stem=(
                self.shape(self.ANCHOR)[0],
                self.shape("pre.1.conv3.conv.weight")[0],
                self.shape("pre.3.conv3.conv.weight")[0],
            ),
        )

    def preprocessing(self, joints: int) -> Preprocessing:
        return PRINCETON_HAND if joints == len(HAND21.joints) else PRINCETON_BODY

    def modules(self, model: StackedHourglass) -> Pairs:
        yield from (("stem.0", "pre.0.conv"), ("stem.1", "pre.0.bn"))
        for ours, theirs in (("stem.3", "pre.1"), ("stem.5", "pre.3"), ("stem.6", "pre.4")):
            yield from self.residual(ours, theirs)
        for n, head, ours in _heads(model):
            yield from self._hourglass(head.hourglass, f"{ours}.hourglass", f"hgs.{n}.0")
            yield from self.residual(f"{ours}.residual", f"features.{n}.0")
            yield from ((f"{ours}.linear.0", f"features.{n}.1.conv"), (f"{ours}.linear.1", f"features.{n}.1.bn"))
            yield f"{ours}.score", f"outs.{n}.conv"
        for n in range(len(model.stages)):
            yield f"stages.{n}.merge_features", f"merge_features.{n}.conv.conv"
            yield f"stages.{n}.merge_heatmaps", f"merge_preds.{n}.conv.conv"

    def _hourglass(self, module: Hourglass, ours: str, theirs: str) -> Pairs:
        for part, other in (("across", "up1"), ("down", "low1"), ("up", "low3")):
            yield from self.residual(f"{ours}.{part}", f"{theirs}.{other}")
        if isinstance(module.inner, Hourglass):
            yield from self._hourglass(module.inner, f"{ours}.inner", f"{theirs}.low2")
        else:
            yield from self.residual(f"{ours}.inner", f"{theirs}.low2")


class Bearpaw(_Family):
    """`*.pth.tar` of bearpaw/pytorch-pose and `*.pth` of anibali/pytorch-stacked-hourglass."""

    NAME = "bearpaw"
    ANCHOR, SCORE = "hg.0.hg.0.0.0.conv1.weight", "score.0.weight"
    CONV, SKIP = "", "downsample.0"

    def architecture(self) -> Architecture:
        return Architecture(
            stacks=self.many("score.*.weight"),
            features=self.shape(self.SCORE)[1],
            depth=self.many("hg.0.hg.*.0.0.conv1.weight"),
            blocks=self.many("hg.0.hg.0.0.*.conv1.weight"),
            stem=(
                self.shape("conv1.weight")[0],
                self.shape("layer1.0.conv3.weight")[0],
                self.shape("layer2.0.conv3.weight")[0],
            ),
        )

    def preprocessing(self, joints: int) -> Preprocessing:
        return BEARPAW

    def modules(self, model: StackedHourglass) -> Pairs:
        yield from (("stem.0", "conv1"), ("stem.1", "bn1"))
        for ours, theirs in (("stem.3", "layer1.0"), ("stem.5", "layer2.0"), ("stem.6", "layer3.0")):
            yield from self.residual(ours, theirs)
        for n, _, ours in _heads(model):
            path = f"{ours}.hourglass"
            for level in reversed(range(model.arch.depth)):  # theirs are numbered from the innermost
                for number, part in enumerate(("across", "down", "up")):
                    yield from self._chain(model, f"{path}.{part}", f"hg.{n}.hg.{level}.{number}")
                path += ".inner"
            yield from self._chain(model, path, f"hg.{n}.hg.0.3")
            yield from self._chain(model, f"{ours}.residual", f"res.{n}")
            yield from ((f"{ours}.linear.0", f"fc.{n}.0"), (f"{ours}.linear.1", f"fc.{n}.1"))
            yield f"{ours}.score", f"score.{n}"
        for n in range(len(model.stages)):
            yield from ((f"stages.{n}.merge_features", f"fc_.{n}"), (f"stages.{n}.merge_heatmaps", f"score_.{n}"))

    def _chain(self, model: StackedHourglass, ours: str, theirs: str) -> Pairs:
        """`blocks` residuals one after the other."""
        if isinstance(model.get_submodule(ours), Residual):
            yield from self.residual(ours, f"{theirs}.0")
        else:
            for n in range(model.arch.blocks):
                yield from self.residual(f"{ours}.{n}", f"{theirs}.{n}")


def _heads(model: StackedHourglass) -> Iterator[tuple[int, Head, str]]:
    """Number, module and name of every stack's head."""
    for n, stage in enumerate(model.stages):
        assert isinstance(stage, Stage)
        yield n, stage.head, f"stages.{n}.head"
    yield len(model.stages), model.last, "last"
