"""New embeddings of 9 or 4 dimensions against old ones of 6: every method's equation with the view, on one rank and two."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from method_loops import slow_terms
from method_steps import clock_of, steps_of_this_rank, trained_of_this_rank
from method_toys import CLASSES, DATA, DIM, METHODS, VARIANTS, batches, make_head, make_heads, make_method, settings
from ranks import on_ranks
from test_equations import PUBLISHED

from engine.method import Clock
from engine.parts import new_heads, view_dims
from engine.trainer import make_optimizer
from losses import PartialFC, View
from losses.view import views_of

DIMS = {"cut": 9, "learnt": 4}
# As in test_equations.py, and W adds up 10 rows of up to 9 products.
ROUNDING = 4 * 20 * torch.finfo(torch.float32).eps
CASES = [(name, kind) for name in VARIANTS for kind in DIMS]


def more(name: str, kind: str) -> dict:
    scale = {"bct_scale": 64.0} if name in ("BCT", "UniBCT") else {}
    return {"embedding_size": DIMS[kind], "old_dim": DIM} | scale


@pytest.mark.parametrize("name, kind", CASES)
def test_terms_and_gradients_are_the_equations(name, kind, old_side, one_rank):
    """In every gradient: of the embeddings, of both heads and of the method's parameters, W among them."""
    found, memory = steps_of_this_rank(name, old_side, **more(name, kind)), []
    method, cfg = make_method(name, old_side, **more(name, kind))
    heads = make_heads(cfg, method)
    assert ("view.weight" in dict(method.named_parameters())) == (kind == "learnt")
    assert list(heads.views) == ([DIM] if name in ("MixBCT", "NCCL") else [])
    for step, (new, labels, index) in enumerate(batches(dim=DIMS[kind])):
        new, weight = new.double().requires_grad_(), heads.weight.detach().double().requires_grad_()
        own = heads.views[DIM].weight.detach().double().requires_grad_() if heads.views else None
        parameters = {key: p.detach().double().requires_grad_() for key, p in method.named_parameters()}
        terms = slow_terms(name, SimpleNamespace(**PUBLISHED[name]), clock_of(step), (new, labels, index), weight, parameters,
                           memory, index % 3 == 0, own)
        sum(terms.values()).backward()
        assert terms.keys() == found[step]["terms"].keys()
        for key, value in terms.items():
            torch.testing.assert_close(found[step]["terms"][key].double(), value.detach(), rtol=1e-5, atol=1e-6)
        pairs = [(found[step]["new"], new.grad), (found[step]["weight"], weight.grad),
                 *((found[step]["parameters"][key], p.grad) for key, p in parameters.items())]
        for mine, slow in pairs + ([(found[step]["views"][DIM], own.grad)] if own is not None else []):
            assert slow.abs().sum() > 0
            torch.testing.assert_close(mine.double(), slow, rtol=1e-3, atol=ROUNDING)


def of_this_rank(folder: Path) -> dict:
    return {(name, kind): (steps_of_this_rank(name, folder, **more(name, kind)),
                           trained_of_this_rank(name, folder, **more(name, kind))) for name, kind in CASES}


@pytest.fixture(scope="module")
def two_ranks(old_side) -> list[dict]:
    return on_ranks(2, of_this_rank, old_side)


@pytest.mark.parametrize("name, kind", CASES)
def test_two_ranks_compute_what_one_computes(name, kind, old_side, one_rank, two_ranks):
    """Terms and gradients of two steps, and two updates with accumulated gradients under DDP."""
    both = [rank[name, kind] for rank in two_ranks]
    for step, one in enumerate(steps_of_this_rank(name, old_side, **more(name, kind))):
        ranks = [steps[step] for steps, _ in both]
        for key, value in one["terms"].items():
            torch.testing.assert_close(sum(rank["terms"][key] for rank in ranks) / 2, value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.cat([rank["new"] for rank in ranks]) / 2, one["new"], rtol=1e-4, atol=1e-6)
        for dim, value in one["views"].items():
            torch.testing.assert_close(torch.cat([rank["views"][dim] for rank in ranks]), value, rtol=1e-4, atol=1e-6)
        for key, value in one["parameters"].items():
            torch.testing.assert_close(sum(rank["parameters"][key] for rank in ranks) / 2, value, rtol=1e-4, atol=ROUNDING)
    one, ranks = trained_of_this_rank(name, old_side, **more(name, kind)), [trained for _, trained in both]
    for rank in ranks:
        for found, expected in zip(rank["parameters"], one["parameters"], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for dim, value in one["views"].items():
        torch.testing.assert_close(torch.cat([rank["views"][dim] for rank in ranks]), value, rtol=1e-4, atol=1e-5)
        assert not torch.equal(value, make_head(8).weight)                  # it is trained


@pytest.mark.parametrize("name", METHODS)
def test_equal_dimensions_have_no_view(name, old_side, one_rank):
    """Named or not: nothing is added, and the embedding itself is compared."""
    for old_dim in (None, DIM):
        method = make_method(name, old_side, old_dim=old_dim)[0]
        new = torch.randn(3, DIM)
        assert method.view(new) is new and views_of(method) == {} and "view.weight" not in dict(method.named_parameters())
        assert view_dims(settings(name, old_side, old_dim=old_dim), METHODS[name]) == []


def test_unibct_has_a_gradient_of_w_before_the_first_refinement(old_side, one_rank):
    """DDP waits for one of every parameter; it is 0."""
    method, cfg = make_method("UniBCT", old_side, **more("UniBCT", "learnt"))
    new, labels, index = batches(dim=4)[0]
    terms = method(make_heads(cfg, method), new, labels, index, Clock(2, 0, 0.1))
    sum(terms.values()).backward()
    assert terms["bct"] == 0 and method.view.weight.grad.abs().sum() == 0
    method, cfg = make_method("UniBCT", old_side, **more("UniBCT", "cut"))
    new, labels, index = batches(dim=9)[0]
    assert method(make_heads(cfg, method), new, labels, index, Clock(2, 0, 0.1)).keys() == {"cls"}


def test_a_view_by_hand():
    """Cut: the first numbers, and a gradient of them only. Learnt: an isometry at the start, one for each seed."""
    new = torch.tensor([[1.0, 2, 3], [4, 5, 6]], requires_grad=True)
    assert View(3, 2)(new).tolist() == [[1, 2], [4, 5]] and View(3, 2).matrix().tolist() == [[1, 0], [0, 1], [0, 0]]
    View(3, 2)(new).sum().backward()
    assert new.grad.tolist() == [[1, 1, 0]] * 2
    view = View(3, 5, seed=1)
    torch.testing.assert_close(view(new).norm(dim=1), new.norm(dim=1))
    torch.testing.assert_close(F.cosine_similarity(*view(new), dim=0), F.cosine_similarity(*new, dim=0))
    assert torch.equal(view.weight, View(3, 5, seed=1).weight) and not torch.allclose(view.weight, View(3, 5, seed=2).weight)
    np.testing.assert_allclose((new @ view.matrix()).detach(), view(new).detach(), rtol=1e-6)


def test_the_heads_of_a_training(old_side, one_rank):
    """The view's head is of the same kind, with the same margin, classes and sampling; each head has its own parameter group."""
    cfg = settings("MixBCT", old_side, embedding_size=9, old_dim=DIM, sample_rate=0.8, margin_list=(1.0, 0.2, 0.1), scale=9.0)
    head = new_heads(cfg, METHODS["MixBCT"], PartialFC, CLASSES, torch.device("cpu"))
    own = head.views[DIM]
    assert (head.weight.shape[1], own.weight.shape[1]) == (9, DIM) and own.sample_rate == 0.8 and own.num_classes == CLASSES
    assert (own.margin.s, own.margin.m2, own.margin.m3) == (9.0, 0.2, 0.1)
    method = METHODS["MixBCT"](cfg, DATA)
    groups = make_optimizer(cfg, torch.nn.Linear(2, 2), method, head, own).param_groups
    assert [len(group["params"]) for group in groups] == [2, 1, 1]
    assert new_heads(cfg, METHODS["L2"], PartialFC, CLASSES, torch.device("cpu")).views == {}
