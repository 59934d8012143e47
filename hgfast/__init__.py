"""hgfast: fast training and deployment of stacked hourglass networks for pose estimation.

Importing this package does not import torch: the public names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hgfast.checkpoints import load_model as load_model
    from hgfast.runtime.session import Session as Session

__version__ = "0.1.0"
_LAZY_IMPORTS = {"load_model": "hgfast.checkpoints", "Session": "hgfast.runtime.session"}


def __getattr__(name: str) -> Any:
    if name in _LAZY_IMPORTS:
        return getattr(import_module(_LAZY_IMPORTS[name]), name)
    raise AttributeError(f"module 'hgfast' has no attribute {name!r}")
