"""Run exported networks in an application: `hgfast.runtime.Session` and its parts.

Importing this package imports no other module; attributes are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hgfast.runtime.session import Session as Session

_LAZY = {"Session": "hgfast.runtime.session"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hgfast.runtime' has no attribute {name!r}")
