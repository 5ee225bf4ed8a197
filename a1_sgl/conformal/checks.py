"""What a number must be before it is held against its range; whatever is none is NaN, which lies in no range."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, cast


def real(value: Any) -> float:
    """The number itself, or NaN if it is none; True is none."""
    return cast(float, value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


def whole(value: Any) -> float:
    """The whole number itself, or NaN if it is none; 2.0 is none."""
    return cast(float, value) if isinstance(value, Integral) and not isinstance(value, bool) else math.nan
