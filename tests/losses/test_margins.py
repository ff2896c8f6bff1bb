"""Margins against their definition in plain Python, on known angles."""

import math

import pytest
import torch

from losses import ArcFace, CombinedMarginLoss, CosFace

LABELS = torch.tensor([4, 0, -1, 2, 19, 7, -1, 11])


def cosines() -> torch.Tensor:
    cos = torch.rand(8, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1.5 - 0.75
    for row, value in ((0, 0.3), (1, -0.93), (3, -0.87), (4, 0.99), (5, 0.02), (7, -0.885)):
        cos[row, LABELS[row]] = value
    return cos


def slow(cos, labels, s=64.0, m2=0.0, m3=0.0, filtered=0.0):
    out = torch.empty_like(cos)
    for i in range(len(cos)):
        for j in range(cos.shape[1]):
            c = cos[i, j].item()
            if j == labels[i]:
                theta = math.acos(c)
                c = math.cos(theta + m2) if theta + m2 <= math.pi else c - m2 * math.sin(math.pi - m2)
                c -= m3
            elif filtered and c > filtered:
                c = 0.0
            out[i, j] = s * c
    return out


@pytest.mark.parametrize("margin, settings", [
    (ArcFace(), dict(m2=0.5)),
    (ArcFace(30, 0.3), dict(s=30, m2=0.3)),
    (CosFace(), dict(m3=0.4)),
    (CombinedMarginLoss(64, 1.0, 0.3, 0.2), dict(m2=0.3, m3=0.2)),
    (CombinedMarginLoss(64, 1.0, 0.5, 0.0, 0.4), dict(m2=0.5, filtered=0.4)),
    (CombinedMarginLoss(64, 1.0, 0.0, 0.4, 0.4), dict(m3=0.4, filtered=0.4)),
])
def test_equals_the_definition(margin, settings):
    cos = cosines()
    before = cos.clone()
    torch.testing.assert_close(margin(cos, LABELS), slow(cos, LABELS, **settings), rtol=0, atol=1e-9)
    assert torch.equal(cos, before)


@pytest.mark.parametrize("margin", [ArcFace(), CosFace(), CombinedMarginLoss(64, 1.0, 0.5, 0.0, 0.4)])
def test_gradient_by_finite_differences(margin):
    assert torch.autograd.gradcheck(lambda cos: margin(cos, LABELS), cosines().requires_grad_())


def test_gradient_is_finite_at_plus_and_minus_one():
    cos = torch.zeros(2, 20)
    cos[0, 4], cos[1, 4] = 1.0, -1.0
    cos.requires_grad_()
    ArcFace()(cos, torch.tensor([4, 4])).sum().backward()
    assert cos.grad.isfinite().all()


def test_the_target_logit_falls_over_all_angles():
    theta = torch.linspace(0, math.pi, 1000, dtype=torch.float64)
    logits = ArcFace()(theta.cos()[:, None], torch.zeros(1000, dtype=torch.long))[:, 0]
    assert (logits.diff() < 1e-9).all()


def test_multiplicative_margin_is_refused():
    with pytest.raises(ValueError, match="m1 must be 1"):
        CombinedMarginLoss(m1=1.35)
