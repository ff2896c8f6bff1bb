"""Each method at its published settings: terms and gradients are the equation's, and no gradient reaches the old side."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from method_loops import slow_terms
from method_steps import clock_of, make_method_for_ranks, steps_of_this_rank
from method_toys import VARIANTS, batches, make_head, make_method, settings

from BCT_Methods.AdvBCT.train import AdvBCT, Reverse
from BCT_Methods.L2.train import beyond
from BCT_Methods.NCCL.train import contrast
from engine.method import Clock

# The settings by hand, as the papers and the public code have them; UniBCT is refined in epoch 3 here.
PUBLISHED = {
    "MixBCT": {},
    "L2": {"l2_weight": 10, "threshold": 0},
    "weakenedL2": {"l2_weight": 10, "threshold": 0.2},
    "BCT": {"bct_scale": 64, "old_classifier": None},
    "UniBCT": {"bct_scale": 64, "refine_epoch": [3], "lamb": 0.9, "tau": 0.05, "as_published": False},
    "NCCL": {"alpha": 1, "beta": 0.01, "tau": 1, "queue_size": 33, "credible_only": False, "as_published": False},
    "AdvBCT": {"p2s_weight": 4, "adv_weight": 4, "threshold": 0.4, "num_epoch": 35},
}
# The absolute values of a gradient's float32 terms add up to 2 here (AdvBCT's discriminator: the terms of its first bias,
# of both signs, add up to 0): 2 times its 20 rows times eps.
ROUNDING = 2 * 20 * torch.finfo(torch.float32).eps      # 5e-6


@pytest.mark.parametrize("name", VARIANTS)
def test_terms_and_gradients_are_the_equations(name, old_side, one_rank):
    """Both steps of one rank against the loops, in every gradient; NCCL's queue has more places than entries."""
    default = {"bct_scale": settings(name, old_side).bct_scale} if "bct_scale" in PUBLISHED[name] else {}
    found, memory = steps_of_this_rank(name, old_side, **default), []
    method = make_method(name, old_side)[0]
    for step, (new, labels, index) in enumerate(batches()):
        new, weight = new.double().requires_grad_(), make_head().weight.detach().double().requires_grad_()
        parameters = {key: p.detach().double().requires_grad_() for key, p in method.named_parameters()}
        terms = slow_terms(name, SimpleNamespace(**PUBLISHED[name]), clock_of(step), (new, labels, index), weight, parameters,
                           memory, index % 3 == 0)
        sum(terms.values()).backward()
        assert terms.keys() == found[step]["terms"].keys()
        for key, value in terms.items():
            torch.testing.assert_close(found[step]["terms"][key].double(), value.detach(), rtol=1e-5, atol=1e-6)
        for mine, slow in ((found[step]["new"], new.grad), (found[step]["weight"], weight.grad),
                           *((found[step]["parameters"][key], p.grad) for key, p in parameters.items())):
            torch.testing.assert_close(mine.double(), slow, rtol=1e-3, atol=ROUNDING)
        assert found[step]["new"].abs().sum() > 0


def test_gradients_of_plain_functions_by_finite_differences():
    """In float64, of the terms that are functions of tensors."""
    draw = torch.Generator().manual_seed(2)
    new, old = (torch.randn(5, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: beyond(F.normalize(x), F.normalize(old), 0.2), new.requires_grad_())
    similarity = torch.randn(4, 7, generator=draw, dtype=torch.float64, requires_grad=True)
    weight, positive = torch.rand(4, 7, generator=draw, dtype=torch.float64), torch.rand(4, 7, generator=draw) < 0.5
    rows, entries = torch.tensor([True, True, False, True]), torch.rand(7, generator=draw) < 0.8
    assert torch.autograd.gradcheck(lambda s: contrast(s, weight, positive & entries, rows, entries), similarity)
    balls = SimpleNamespace(cfg=SimpleNamespace(threshold=0.4), centres=F.normalize(old) * 0.8,
                            radii=torch.tensor([0.2, 0.7, 0.3, 0.5, 0.4], dtype=torch.float64),
                            is_ball=torch.tensor([True, True, False, True, True]))

    def p2s(x, v):
        balls.elastic = v
        return AdvBCT.point_to_set(balls, F.normalize(x), torch.arange(5))
    assert torch.autograd.gradcheck(p2s, (new, torch.randn(5, generator=draw, dtype=torch.float64, requires_grad=True)))


def test_the_gradient_is_reversed_and_multiplied_by_alpha():
    features = torch.randn(3, 4, requires_grad=True)
    Reverse.apply(features, 0.3).sum().backward()
    assert torch.equal(features.grad, torch.full((3, 4), -0.3))


def test_p2s_without_a_violation_is_zero_with_a_gradient_of_zero():
    balls = SimpleNamespace(cfg=SimpleNamespace(threshold=3.0), centres=torch.zeros(2, 4), radii=torch.tensor([2.5, 2.5]),
                            is_ball=torch.tensor([True, True]), elastic=torch.zeros(2, requires_grad=True))
    new = torch.randn(4, 4, requires_grad=True)
    loss = AdvBCT.point_to_set(balls, F.normalize(new), torch.tensor([0, 1, 0, 1]))
    loss.backward()
    assert loss == 0 and new.grad.abs().sum() == 0 and balls.elastic.grad.tolist() == [0, 0]


@pytest.mark.parametrize("name", VARIANTS)
def test_no_gradient_reaches_the_old_side(name, old_side, one_rank):
    method, _ = make_method_for_ranks(name, old_side)
    before = {key: value.clone() for key, value in method.named_buffers()}
    assert (len(before) > 0) == (name not in ("MixBCT", "L2", "weakenedL2"))
    new, labels, index = batches()[0]
    sum(method(make_head(), new.requires_grad_(), labels, index, Clock(15, 0, 0.3)).values()).backward()
    changing = ("queue.", "discriminator.")                     # NCCL's memory, BatchNorm's statistics
    for key, value in method.named_buffers():
        assert value.grad is None and not value.requires_grad, key
        assert torch.equal(value, before[key]) or key.startswith(changing), key
    assert not hasattr(method, "old") or isinstance(method.old.rows, np.memmap)     # no copy per process
