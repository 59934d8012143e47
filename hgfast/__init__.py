"""hgfast: stacked hourglass networks for poses, trained fast and shipped as an engine.

Importing this package imports no torch: names are looked up when first used.
What may enter: names of the public face, looked up late.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hgfast.checkpoints import load_model as load_model

__version__ = "0.1.0"
_LAZY = {"load_model": "hgfast.checkpoints"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hgfast' has no attribute {name!r}")
