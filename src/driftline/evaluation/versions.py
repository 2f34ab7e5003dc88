"""Versions of what the figures of an evaluation depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("torch", "transformers", "math-verify", "reasoning-gym", "scipy")


def versions() -> dict[str, str]:
    """Of Python and of each package that is installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
