"""What only a second rank shows of the heads: its classes, labels and rows.  7 classes are 4 and 3."""

import pytest
import torch
import torch.distributed as dist
from method_loops import margin_loss
from method_steps import slice_of_this_rank
from method_toys import CLASSES, DIM, batches, make_head
from ranks import on_ranks

from losses import SoftmaxHead
from losses.shards import all_rows, local_labels

HALF = 5                # rows of each rank
NEW, LABELS, _ = batches()[0]


def own_rows(rows: torch.Tensor) -> torch.Tensor:
    return rows[slice_of_this_rank()]


def sampled_step() -> dict:
    head = make_head(sample_rate=0.7)           # 2 of 4 and of 3 classes; but all of the batch
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    head.bind(optimizer)
    new, labels, before = own_rows(NEW).clone().requires_grad_(), own_rows(torch.tensor([0, 5] * HALF)), head.weight.clone()
    loss = head(new, labels)
    loss.backward()
    rows, gradient = head.sampler.rows, head.sampler.active.grad
    optimizer.step()
    return {"loss": loss.detach(), "new": new.grad, "rows": rows, "weight": before, "gradient": gradient,
            "moved": (head.weight != before).any(1)}


def all_of_this_rank() -> dict:
    new, head = own_rows(NEW).clone().requires_grad_(), SoftmaxHead(None, DIM, CLASSES, seed=3)
    loss = head(new / 10, own_rows(LABELS))
    return {"gathered": all_rows(own_rows(LABELS)), "local": local_labels(LABELS, *((0, 4), (4, 3))[dist.get_rank()]),
            "start": head.class_start, "weight": head.weight.detach(),
            "softmax": (loss.detach(), *torch.autograd.grad(loss, [head.weight, head.bias])), "sampled": sampled_step()}


@pytest.fixture(scope="module")
def ranks() -> list[dict]:
    return on_ranks(2, all_of_this_rank)


def test_gathered_rows_are_in_the_order_of_the_ranks_and_local_labels_start_at_the_shards_first_class(ranks):
    for rank in ranks:
        assert torch.equal(rank["gathered"], LABELS)
    assert LABELS.tolist() == [4, 4, 5, 0, 6, 3, 3, 2, 4, 0]
    assert ranks[0]["local"].tolist() == [-1, -1, -1, 0, -1, 3, 3, 2, -1, 0]
    assert ranks[1]["local"].tolist() == [0, 0, 1, -1, 2, -1, -1, -1, 0, -1]


def test_the_softmax_heads_bias_is_sharded_as_its_weight(ranks):
    weight = torch.cat([rank["weight"] for rank in ranks]).double().requires_grad_()
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    assert [rank["start"] for rank in ranks] == [0, 4]
    logits = torch.stack([weight @ row + bias for row in NEW.double() / 10])
    slow = sum(row.logsumexp(0) - row[y] for row, y in zip(logits, LABELS, strict=True)) / len(LABELS)
    for which, expected in enumerate(torch.autograd.grad(slow, [weight, bias]), 1):
        torch.testing.assert_close(torch.cat([rank["softmax"][which] for rank in ranks]).double(), expected, rtol=1e-4, atol=1e-6)


def test_a_sample_of_each_shard_is_one_softmax_over_both(ranks):
    """Labels are renumbered to the second shard's sampled rows, and its class 5 is among them; only sampled rows move."""
    first, second = (rank["sampled"] for rank in ranks)
    assert len(first["rows"]) == len(second["rows"]) == 2 and 0 in first["rows"] and 5 - 4 in second["rows"]
    classes = [*first["rows"].tolist(), *(4 + second["rows"]).tolist()]
    weight = torch.cat([first["weight"], second["weight"]]).double()[classes].requires_grad_()
    new = NEW.double().requires_grad_()
    slow = margin_loss(new, [classes.index(y) for y in [0, 5] * HALF], weight)
    to_new, to_weight = torch.autograd.grad(slow, [new, weight])
    for rank, rows in ((first, slice(0, HALF)), (second, slice(HALF, None))):
        torch.testing.assert_close(rank["loss"].double(), slow.detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(rank["new"].double(), 2 * to_new[rows], rtol=1e-4, atol=1e-6)
        assert rank["moved"].nonzero()[:, 0].tolist() == rank["rows"].tolist()
    torch.testing.assert_close(torch.cat([first["gradient"], second["gradient"]]).double(), to_weight, rtol=1e-4, atol=1e-6)
