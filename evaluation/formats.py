"""How figures are written: rates, percentages, JSON."""

import numpy as np


def tidy(value):
    """``value`` as JSON has it: arrays are lists, NaN and infinity are null."""
    if isinstance(value, dict):
        return {key: tidy(item) for key, item in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [tidy(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def rate(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-").replace("e+00", "")


def percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.2f}"
