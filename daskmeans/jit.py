"""How loops over rows are compiled, and what arrays they take.

Must not know what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

NO_WEIGHT: Float64s = np.empty(0)

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile `function` once for each dtype and cache the machine code on disk.

    Sums may be reassociated and contracted, so that they vectorise; NaN and infinity keep their meaning.
    """
    fastmath = {"contract", "reassoc"}
    compiled: F = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=fastmath)(function)
    return compiled


def read_only(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View `values` as read-only, so that each kernel is compiled once and not again for writeable input."""
    view = values.view()
    view.flags.writeable = False
    return view
