"""Versions of what the figures of an evaluation depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("torch", "transformers", "math-verify", "reasoning-gym", "scipy")


_OF_BACKENDS = {"http": ("openai",), "vllm": ("vllm",)}


def versions(backend: str = "transformers") -> dict[str, str]:
    """Of Python and of each package that is installed; of those that run models, the ones of a backend."""
    found = {"python": platform.python_version()}
    for name in (*_PACKAGES, *_OF_BACKENDS.get(backend, ())):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
