"""numba's `njit`, started without scipy.

Before its first kernel numba looks whether scipy has a BLAS, by importing it: a tenth of the time that a small analysis
takes, for `np.correlate` alone. Kernels that multiply matrices find scipy when they are compiled.
"""

from __future__ import annotations

import sys
from importlib import import_module

from numba import njit

__all__ = ["njit"]

_LOOKS = "numba.np.arraymath"  # the part that looks

if _LOOKS not in sys.modules and "scipy.linalg" not in sys.modules:
    sys.modules["scipy.linalg.cython_blas"] = None  # type: ignore[assignment]  # which says that there is none
    try:
        import_module(_LOOKS)
    finally:
        del sys.modules["scipy.linalg.cython_blas"]
