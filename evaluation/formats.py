"""Figures as text and as JSON values."""

from typing import Any

import numpy as np


def tidy(value: Any) -> Any:
    """``value`` with JSON's types: arrays become lists, numpy's scalars Python's, NaN and infinity None."""
    if isinstance(value, dict):
        return {key: tidy(item) for key, item in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [tidy(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def rate(value: float) -> str:
    """A false accept or false positive rate with one digit: 1e-4, 1e-1, 1."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+00", "")


def percent(value: float | None) -> str:
    """A share in %, with two decimals and without the sign; n/a for None."""
    return "n/a" if value is None else f"{100 * value:.2f}"
