"""Random draws that depend on what they are for, never on when they happen or on how many workers run."""

import hashlib

import torch


def generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A CPU generator for one draw: the same (seed, purpose) gives the same numbers on every rank and machine.

    ``purpose`` names the draw and counts it, for example ("order", epoch) or ("flip", step).
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
