"""Ranges of configuration values, declared at the field: `lr: Annotated[float, Range(gt=0)] = 1e-3`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from hgfast.errors import HgfastError


@dataclass(frozen=True)
class Range:
    """Valid range of a number, or of every number in a list. None and unset bounds are not checked; NaN is invalid."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        lower = (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        return bool(lower and (self.le is None or value <= self.le) and (self.lt is None or value < self.lt))

    def __str__(self) -> str:
        low, high = (self.ge if self.gt is None else self.gt), (self.le if self.lt is None else self.lt)
        if low is not None and high is not None:
            return f"in {'[' if self.gt is None else '('}{low:g}, {high:g}{']' if self.lt is None else ')'}"
        if low is not None:
            return f"{'at least' if self.gt is None else 'above'} {low:g}"
        return f"{'at most' if self.lt is None else 'below'} {high:g}"


def check_ranges(config: Any, prefix: str = "") -> None:
    """Raise `HgfastError` for the first field of a dataclass or of its nested dataclasses that is outside its `Range`, not
    finite, or None and may not be: jsonargparse accepts null for any type."""
    hints, plain_hints = get_type_hints(type(config), include_extras=True), get_type_hints(type(config))
    for field in fields(config):
        name, value, hint = f"{prefix}{field.name}", getattr(config, field.name), hints[field.name]
        if value is None and type(None) not in get_args(plain_hints[field.name]):
            raise HgfastError(f"{name} has no value: give it one, or leave it out")
        if is_dataclass(value):
            check_ranges(value, f"{name}.")
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise HgfastError(f"{name} is {value}, must be finite")
        for valid in (item for part in (hint, *get_args(hint)) for item in getattr(part, "__metadata__", ())):
            if any(number is not None and number not in valid for number in numbers):
                raise HgfastError(f"{name} is {value}, must be {valid}")
