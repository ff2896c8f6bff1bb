"""Heads and methods that hold golden arrays instead of reading files."""

from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from BCT_Methods.MixBCT.train import MixBCT
from losses import PartialFC, View


def head_of(g: dict, margin, classes: int, weight: str, **more) -> PartialFC:
    """A head of ``classes`` classes whose class vectors are this rank's rows of g[weight]."""
    head = PartialFC(margin, 16, classes, **more)
    rows = g[weight][head.class_start:head.class_start + head.num_local]
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rows))
    return head


def no_head(new, labels) -> torch.Tensor:
    """A classification loss of 0."""
    return new.sum() * 0


def unit_rows(raw: np.ndarray) -> torch.Tensor:
    return F.normalize(torch.from_numpy(raw))


class OldRows(torch.Tensor):
    """Old features as a method reads them, all of which are there."""

    def part(self, index, device):
        return None


def on_arrays(kind: type, **parts) -> torch.nn.Module:
    """A method of this kind that has only the attributes ``parts``, those that its forward reads."""
    method = kind.__new__(kind)
    torch.nn.Module.__init__(method)
    method.view = View(16, 16)
    for name, part in parts.items():
        setattr(method, name, part.as_subclass(OldRows) if name == "old" else part)
    return method


class MixBCTOnArrays(MixBCT):
    """MixBCT that replaces the rows of the public run, rows[step], or its own draw if ``rows`` is None."""

    def __init__(self, old: torch.Tensor, credible: torch.Tensor, rows: list[torch.Tensor] | None = None):
        torch.nn.Module.__init__(self)
        self.view = View(16, 16)
        self.cfg = SimpleNamespace(mix_ratio=0.3, seed=0)
        self.old, self.credible, self.rows = old, credible, rows

    def replaced(self, index, clock):
        return self.rows[clock.step] if self.rows else super().replaced(index, clock)
