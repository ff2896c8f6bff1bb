"""Each setting of the head reaches its place in the loss."""

import pytest
import torch
from method_loops import margin_loss

from engine import parts, prepare
from engine.distributed import Ranks
from engine.method import Method
from losses import PartialFC, SoftmaxHead
from records.facts import Facts
from utils.config import load_config
from utils.paths import ROOT

CLASSES, DIM = 9, 6
CPU = Ranks(0, 1, torch.device("cpu"))


def head_of(monkeypatch, kind: type = PartialFC, **more) -> PartialFC:
    """The head that a run with these settings has."""
    monkeypatch.setattr(parts, "get_model", lambda *_, **__: torch.nn.Linear(4, DIM))
    cfg = load_config(ROOT / "configs/f512_r18_arc_class30.py")
    cfg = cfg.replace(**{"embedding_size": DIM, "fp16": False} | more)
    head = prepare.build(cfg, Facts(100, CLASSES), CPU, Method, kind).head
    with torch.no_grad():
        head.weight.mul_(30)
    return head


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """(embeddings, labels): some rows are near other classes than their own, so that the filter has an effect."""
    draw = torch.Generator().manual_seed(3)
    return 3 * torch.randn(12, DIM, generator=draw), torch.randint(CLASSES, (12,), generator=draw)


@pytest.mark.parametrize("margins", [(1.0, 0.3, 0.2), (1.0, 0.2, 0.3), (1.0, 0.0, 0.35), (1.0, 0.7, 0.0)])
def test_margin_list_is_m1_m2_in_radians_and_m3_as_a_cosine(margins, one_rank, monkeypatch):
    head = head_of(monkeypatch, margin_list=margins, scale=13.0)
    new, labels = batch()
    slow = margin_loss(new.double(), labels, head.weight.detach().double(), 13.0, margins[1], margins[2])
    torch.testing.assert_close(head(new, labels).detach().double(), slow, rtol=1e-5, atol=0)
    swapped = margin_loss(new.double(), labels, head.weight.detach().double(), 13.0, margins[2], margins[1])
    assert abs(slow / swapped - 1) > 1e-3


def test_the_first_number_of_margin_list_is_m1(one_rank, monkeypatch):
    with pytest.raises(ValueError, match="m1 must be 1"):
        head_of(monkeypatch, margin_list=(0.5, 1.0, 0.0))


@pytest.mark.parametrize("above", [0.0, 0.2, 0.5])
def test_the_filter_leaves_out_other_classes_above_its_cosine(above, one_rank, monkeypatch):
    """In the loss, and in all gradients, to which those cosines contribute nothing."""
    head = head_of(monkeypatch, margin_list=(1.0, 0.3, 0.1), scale=10.0, interclass_filtering_threshold=above)
    new, labels = batch()
    new = new.requires_grad_()
    found = torch.autograd.grad(loss := head(new, labels), [new, head.weight])
    slow_new, weight = new.detach().double().requires_grad_(), head.weight.detach().double().requires_grad_()
    slow = margin_loss(slow_new, labels, weight, 10.0, 0.3, 0.1, above)
    torch.testing.assert_close(loss.detach().double(), slow.detach(), rtol=1e-5, atol=0)
    for mine, expected in zip(found, torch.autograd.grad(slow, [slow_new, weight]), strict=True):
        torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=1e-6)
    plain = margin_loss(slow_new, labels, weight, 10.0, 0.3, 0.1)
    assert (abs(slow - plain) > 0.1) == (above > 0)


def test_sample_rate_and_seed_reach_the_head(one_rank, monkeypatch):
    """int(sample_rate * classes) classes take part; another seed gives other class vectors and another sample."""
    assert head_of(monkeypatch).sampler is None
    heads = [head_of(monkeypatch, sample_rate=0.6, seed=seed) for seed in (1, 1, 2)]
    rows = []
    for head in heads:
        head(*(part[:2] for part in batch()))
        rows.append(head.sampler.rows.tolist())
    assert [len(chosen) for chosen in rows] == 3 * [int(0.6 * CLASSES)]
    assert rows[0] == rows[1] != rows[2]
    assert torch.equal(heads[0].weight, heads[1].weight) and not torch.equal(heads[0].weight, heads[2].weight)


def test_fp16_reaches_the_head(one_rank, monkeypatch):
    exact, half = (head_of(monkeypatch, fp16=fp16)(*batch()).item() for fp16 in (False, torch.bfloat16))
    assert 1e-5 < abs(half / exact - 1) < 2e-2


def test_the_softmax_head_has_no_margin_and_no_scale(one_rank, monkeypatch):
    """Logits are f . w + b of raw features for any margin and scale; the bias starts at 0 and gets its gradient."""
    head = head_of(monkeypatch, SoftmaxHead, margin_list=(1.0, 0.5, 0.3), scale=64.0)
    assert head.bias.shape == (CLASSES,) and not head.bias.any()
    with torch.no_grad():
        head.bias.copy_(torch.linspace(-2, 2, CLASSES))
    new, labels = batch()[0] / 10, batch()[1]
    loss = head(new, labels)
    weight, bias = head.weight.detach().double(), head.bias.detach().double()
    logits = [[float(z.double() @ w + b) for w, b in zip(weight, bias, strict=True)] for z in new]
    p = torch.tensor(logits, dtype=torch.float64).softmax(1)
    one = torch.eye(CLASSES, dtype=torch.float64)[labels]
    torch.testing.assert_close(loss.detach().double(), -(p.log() * one).sum() / 12, rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, head.bias)[0].double(), (p - one).sum(0) / 12, rtol=1e-4, atol=1e-6)


def test_class_vectors_start_as_normal_numbers_of_001_and_those_of_softmax_as_torch_linear_does(one_rank):
    assert PartialFC(None, 64, 3000).weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert SoftmaxHead(None, 64, 3000).weight.std().item() == pytest.approx((3 * 64) ** -0.5, rel=0.02)
