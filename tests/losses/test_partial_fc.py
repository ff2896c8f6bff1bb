"""Loss and gradients of PartialFC and the softmax head: one rank and two ranks equal a dense layer; uneven shards."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import on_ranks

import losses.partial_fc
from losses import ArcFace, CombinedMarginLoss, CosFace, PartialFC, SoftmaxHead

CLASSES, DIM, BATCH = 11, 16, 8
# In float32 a cosine, a sum of DIM products, is off by up to DIM * eps / 2; the margins' scale of 64 makes that the relative
# error of a probability, and so the error of a gradient as a share of the largest one.  Twice that, for what follows it.
ROUNDING = 64 * DIM * torch.finfo(torch.float32).eps        # 1.2e-4
MARGINS = {"arc": ArcFace(), "cos": CosFace(), "filtered": CombinedMarginLoss(64, 1.0, 0.5, 0.0, 0.2), "softmax": None}
KINDS = pytest.mark.parametrize("kind", MARGINS)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(BATCH, DIM, generator=draw) * 5, torch.randint(CLASSES, (BATCH,), generator=draw)


def make(kind: str, **more) -> PartialFC:
    head = SoftmaxHead if kind == "softmax" else PartialFC
    return head(MARGINS[kind], DIM, CLASSES, seed=5, **more)


def near(found: torch.Tensor, exact: torch.Tensor) -> None:
    """Assert that a float32 gradient equals the float64 one but for rounding."""
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=ROUNDING * exact.abs().max().item())


def step_of_this_rank(kind: str, **more) -> dict:
    """Loss and gradients of this rank's rows and classes."""
    embeddings, labels = batch()
    own = slice(dist.get_rank() * BATCH // dist.get_world_size(), (dist.get_rank() + 1) * BATCH // dist.get_world_size())
    new = embeddings[own].clone().requires_grad_()
    head = make(kind, **more)
    loss = head(new, labels[own])
    loss.backward()
    return {"loss": loss.detach(), "new": new.grad, "weight": head.weight.grad, "rows": head.weight.detach(),
            "bias": head.bias.grad if kind == "softmax" else None, "start": head.class_start}


def all_kinds() -> dict:
    return {kind: step_of_this_rank(kind) for kind in MARGINS}


def dense(kind: str, weight: torch.Tensor) -> dict:
    """Loss and gradients from one float64 matrix of all classes and torch's cross-entropy."""
    embeddings, labels = batch()
    new, weight = embeddings.double().requires_grad_(), weight.double().requires_grad_()
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    if kind == "softmax":
        logits = new @ weight.T + bias
    else:
        logits = MARGINS[kind](F.normalize(new) @ F.normalize(weight).T, labels)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    return {"loss": loss.detach(), "new": new.grad, "weight": weight.grad, "bias": bias.grad}


@pytest.fixture(scope="module")
def two_ranks():
    return on_ranks(2, all_kinds)


@pytest.mark.parametrize("classes_per_block", [4096, 4])
@KINDS
def test_one_rank_is_dense(kind, classes_per_block, one_rank, monkeypatch):
    monkeypatch.setitem(losses.partial_fc.CLASSES_PER_BLOCK, "cpu", classes_per_block)
    one = step_of_this_rank(kind)
    slow = dense(kind, one["rows"])
    torch.testing.assert_close(one["loss"].double(), slow["loss"], rtol=1e-5, atol=0)
    near(one["new"], slow["new"])
    near(one["weight"], slow["weight"])


@KINDS
def test_two_ranks_are_dense(kind, two_ranks):
    first, second = (rank[kind] for rank in two_ranks)
    assert (len(first["rows"]), len(second["rows"]), second["start"]) == (6, 5, 6)
    slow = dense(kind, torch.cat([first["rows"], second["rows"]]))
    for rank in (first, second):
        torch.testing.assert_close(rank["loss"].double(), slow["loss"], rtol=1e-5, atol=0)
    # DDP takes the mean over the ranks: the gradient of a rank's own rows is world_size times the dense one.
    both = {name: torch.cat([first[name], second[name]]).double() for name in ("new", "weight")}
    near(both["new"], 2 * slow["new"])
    near(both["weight"], slow["weight"])
    if kind == "softmax":
        near(torch.cat([first["bias"], second["bias"]]), slow["bias"])


@pytest.mark.parametrize("classes_per_block", [4096, 4, 1])
def test_blocks_of_classes_change_nothing(classes_per_block, monkeypatch):
    """Cosines and their gradients, sums of 8 to 16 terms, in float64: the order of a sum changes them by 1e-14 at most."""
    draw = torch.Generator().manual_seed(4)
    unit = F.normalize(torch.randn(BATCH, DIM, generator=draw, dtype=torch.float64)).requires_grad_()
    weight, upstream = (torch.randn(n, m, generator=draw, dtype=torch.float64) for n, m in ((CLASSES, DIM), (BATCH, CLASSES)))
    weight.requires_grad_()
    monkeypatch.setitem(losses.partial_fc.CLASSES_PER_BLOCK, "cpu", classes_per_block)
    found = losses.partial_fc.Cosines.apply(unit, weight, False)
    plain = unit @ F.normalize(weight).T
    gradients = (torch.autograd.grad(cosines, (unit, weight), upstream) for cosines in (found, plain))
    for a, b in ((found, plain), *zip(*gradients, strict=True)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13 * b.abs().max().item())


@KINDS
def test_scores_and_their_gradient_share_memory(kind, one_rank):
    head, (embeddings, labels) = make(kind), batch()
    scores, local = head.scores(embeddings.requires_grad_(), labels)
    seen = []
    scores.register_hook(lambda grad: seen.append(grad.data_ptr()))
    head.loss(scores, local).backward()
    assert seen == [scores.data_ptr()]


def test_initial_rows_do_not_depend_on_the_number_of_ranks(one_rank, two_ranks):
    for kind in ("arc", "softmax"):
        assert torch.equal(make(kind).weight.detach(), torch.cat([rank[kind]["rows"] for rank in two_ranks]))


def test_half_precision_is_close_to_float32(one_rank, monkeypatch):
    exact = step_of_this_rank("arc")
    monkeypatch.setitem(losses.partial_fc.CLASSES_PER_BLOCK, "cpu", 4)
    half = step_of_this_rank("arc", fp16=torch.bfloat16)
    torch.testing.assert_close(half["loss"], exact["loss"], rtol=2e-2, atol=0)
    for name in ("new", "weight"):
        assert half[name].dtype == torch.float32 and (half[name] - exact[name]).norm() < 0.05 * exact[name].norm(), name


@pytest.mark.parametrize("optimizer", [lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=5e-4, fused=True),
                                       lambda p: torch.optim.AdamW(p, 0.01, fused=True)])
def test_sampled_rows_change_and_the_others_do_not(optimizer, one_rank):
    """Five steps at rate 0.4; every row that was sampled has a momentum, the others have none."""
    head = make("arc", sample_rate=0.4)
    steps = optimizer(head.parameters())
    head.bind(steps)
    seen = torch.zeros(CLASSES, dtype=torch.bool)
    embeddings, labels = batch()
    for turn in range(5):
        before = head.weight.clone()
        positive = labels[turn:turn + 2]
        head(embeddings[turn:turn + 2], positive).backward()
        rows = head.sampler.rows
        assert len(rows) == max(int(0.4 * CLASSES), len(positive.unique())) and set(positive.tolist()) <= set(rows.tolist())
        steps.step()
        steps.zero_grad()
        changed = (head.weight != before).any(1)
        rest = torch.ones(CLASSES, dtype=torch.bool)
        rest[rows] = False
        assert changed[rows].all() and not changed[rest].any()
        seen[rows] = True
    name = "momentum_buffer" if "momentum_buffer" in head.sampler.state else "exp_avg"
    assert torch.equal((head.sampler.state[name] != 0).any(1), seen)


def test_sampled_sgd_equals_a_slow_copy(one_rank):
    """Momentum and decay of a row change only in the steps in which it is sampled."""
    head = make("arc", sample_rate=0.4)
    steps = torch.optim.SGD(head.parameters(), 0.1, 0.9, weight_decay=5e-4)
    head.bind(steps)
    weight, momentum = head.weight.double(), torch.zeros(CLASSES, DIM, dtype=torch.float64)
    embeddings, labels = batch()
    for turn in range(4):
        head(embeddings[turn:turn + 3], labels[turn:turn + 3]).backward()
        rows = head.sampler.rows
        leaf = weight[rows].clone().requires_grad_()
        cos = F.normalize(embeddings[turn:turn + 3].double()) @ F.normalize(leaf).T
        target = torch.searchsorted(rows, labels[turn:turn + 3])
        F.cross_entropy(ArcFace()(cos, target), target).backward()
        momentum[rows] = 0.9 * momentum[rows] + leaf.grad + 5e-4 * weight[rows]
        weight[rows] -= 0.1 * momentum[rows]
        steps.step()
        steps.zero_grad()
    torch.testing.assert_close(head.weight.double(), weight, rtol=1e-4, atol=1e-6)


def test_softmax_head_refuses_sampling(one_rank):
    with pytest.raises(ValueError, match="sample_rate = 1"):
        make("softmax", sample_rate=0.5)
