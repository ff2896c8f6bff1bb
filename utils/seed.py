"""Random numbers that depend on what they are for, never on when they are drawn or on the number of workers."""

import hashlib

import torch


def generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A generator on the CPU for one purpose: the same (seed, purpose) gives the same numbers on every rank and machine.

    ``purpose`` is a name and a number, for example ("order", epoch) or ("flip", step).
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
