"""A sample's loss is cut at -ln(1e-30), so that one wrong label cannot dominate the mean; its gradient is not cut."""

import math

import pytest
import torch

from losses import CombinedMarginLoss, PartialFC, PrototypeLoss

LARGEST = 30 * math.log(10)         # 69.08


def rows() -> torch.Tensor:
    return torch.eye(3)


@pytest.mark.parametrize("kind", ["head", "prototypes"])
def test_the_value_is_cut_and_the_gradient_is_not(kind, one_rank):
    """Row 0 is at class 1 but is labelled 0: its loss would be about 200; row 1 is labelled 1, its loss is 0."""
    if kind == "head":
        loss = PartialFC(CombinedMarginLoss(200.0, m2=0.0), 3, 3)
        with torch.no_grad():
            loss.weight.copy_(rows())
    else:
        loss = PrototypeLoss(3, 3, 200.0)
        loss.prototypes.copy_(rows())
    new = torch.tensor([[0.1, 1.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
    value = loss(new, torch.tensor([0, 1]))
    assert value.item() == pytest.approx(LARGEST / 2, rel=1e-5)
    value.backward()
    # dL / dcos = 200 / 2 * (p - y) = -100 for class 0, +100 for class 1; then through the normalisation of the row.
    length = math.hypot(0.1, 1.0)
    unit = torch.tensor([0.1, 1.0, 0.0]) / length
    slope = torch.tensor([-100.0, 100.0, 0.0])
    torch.testing.assert_close(new.grad[0], (slope - (slope @ unit) * unit) / length, rtol=1e-4, atol=1e-4)
