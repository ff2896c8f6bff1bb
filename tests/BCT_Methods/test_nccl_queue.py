"""NCCL's queue and filter inside the method: what is stored, what it is compared with, and what is left out."""

import math

import pytest
import torch
import torch.nn.functional as F
from method_loops import class_centres, is_credible, old_unit
from method_toys import CLASSES, DATA, DIM, IMAGES, batches, make_head, settings

from BCT_Methods.NCCL import old_queue
from BCT_Methods.NCCL.credible import CredibleOld
from BCT_Methods.NCCL.old_queue import Queue
from BCT_Methods.NCCL.train import NCCL
from engine.method import Clock
from utils.errors import UserError

CLOCK = Clock(0, 0, 0.0)


def test_the_batch_enters_the_ring_as_old_unit_features_with_labels_and_old_logits(old_side, one_rank):
    """Ten images a step into 15 places: the second step fills the five empty ones and replaces the five oldest."""
    method, head = NCCL(settings("NCCL", old_side, queue_size=15), DATA), make_head()
    steps = batches()
    for new, labels, index in steps:
        method(head, new, labels, index, CLOCK)
    places = [*[(1, k) for k in range(5, 10)], *[(0, k) for k in range(5, 10)], *[(1, k) for k in range(5)]]
    for place, (step, row) in enumerate(places):
        _, labels, index = steps[step]
        old = old_unit([index[row]])[0]
        torch.testing.assert_close(method.queue.features[place].double(), old, rtol=0, atol=1e-6)
        assert method.queue.labels[place] == labels[row] and method.queue.pushed == 20
        for c in range(CLASSES):
            w = head.weight[c].detach().double()
            assert method.queue.logits[place, c].item() == pytest.approx((w @ old / w.norm()).item(), abs=1e-6)


def test_old_embeddings_between_the_classes_enter_with_no_label(old_side, one_rank):
    method = NCCL(settings("NCCL", old_side, queue_size=15, credible_only=True, scale=8.0), DATA)
    new, labels, index = batches()[0]
    method(make_head(), new, labels, index, CLOCK)
    good = [is_credible(row, 8.0) for row in old_unit(index)]
    assert 0 < sum(good) < len(good)
    assert method.queue.labels.tolist() == [*(int(y) if ok else -1 for y, ok in zip(labels, good, strict=True)), *5 * [-1]]


@pytest.mark.parametrize("scale", [5.0, 8.0, 16.0])
def test_credible_is_an_entropy_of_at_most_half_of_ln_c_at_the_scale_of_the_classification_loss(scale, old_side, one_rank):
    filters = CredibleOld(settings("NCCL", old_side, scale=scale), DATA)
    old = old_unit(range(IMAGES))
    assert filters(old.float()).tolist() == [is_credible(row, scale) for row in old]
    assert filters.max_entropy == pytest.approx(math.log(7) / 2)


def test_without_the_filter_no_prototypes_are_needed(old_side, one_rank):
    assert NCCL(settings("NCCL", old_side, prototypes=None), DATA).credible is None


def test_products_of_many_classes_are_the_sum_over_blocks_of_them(one_rank, monkeypatch):
    queue = Queue(4, DIM, CLASSES)
    logits = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(1))
    queue.push(torch.zeros(4, DIM), logits, torch.arange(4))
    monkeypatch.setattr(old_queue, "CLASSES_PER_SUM", 3)
    new = torch.randn(2, CLASSES, generator=torch.Generator().manual_seed(2))
    slow = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in logits.tolist()] for x in new.tolist()]
    torch.testing.assert_close(queue.product(new).double(), torch.tensor(slow, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_queue_and_method_use_half_precision_only_if_the_config_says_so(old_side, one_rank, monkeypatch):
    monkeypatch.setattr(old_queue, "half_precision", lambda device: torch.bfloat16)
    kinds = [NCCL(settings("NCCL", old_side, fp16=fp16), DATA).queue.logits.dtype for fp16 in (False, True)]
    assert kinds == [torch.float32, torch.bfloat16]


def test_the_queue_forgets_the_oldest(one_rank):
    """Twelve entries in a ring of ten: the last ten remain, and a batch that does not fit is refused.

    Batches may have any size: a run that resumes on fewer ranks has smaller ones.
    """
    queue = Queue(10, DIM, CLASSES)
    rows = torch.arange(12.0)[:, None]
    features, logits = rows.expand(-1, DIM), rows.expand(-1, CLASSES)
    for batch in (slice(0, 4), slice(4, 7), slice(7, 12)):
        queue.push(features[batch], logits[batch], torch.arange(12)[batch])
    assert queue.labels.tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert torch.equal(queue.features[:, 0], queue.labels.float()) and torch.equal(queue.logits[:, 3], queue.labels.float())
    with pytest.raises(UserError, match="config.queue_size = 10 does not hold a step of 12 images"):
        queue.push(features, logits, torch.arange(12))


def test_the_terms_leave_out_old_embeddings_that_are_not_credible(old_side, one_rank, monkeypatch):
    """They count neither as rows of the batch nor as entries of the queue."""
    method = NCCL(settings("NCCL", old_side, queue_size=20, credible_only=True), DATA)
    new, labels, index = batches()[0]
    good = torch.tensor([True, False, True, True, True, False, True, True, False, True])
    monkeypatch.setattr(CredibleOld, "forward", lambda self, old: good)
    terms = method(make_head(), new, labels, index, Clock(0, 0, 0.0))
    method = NCCL(settings("NCCL", old_side, queue_size=20), DATA)
    only = method(make_head(), new[good], labels[good], index[good], Clock(0, 0, 0.0))
    for key in ("feature", "logit"):
        torch.testing.assert_close(terms[key], only[key])


def test_credible_old_embeddings_are_those_near_one_centre(old_side, one_rank):
    method = NCCL(settings("NCCL", old_side, credible_only=True, scale=12.0), DATA)
    centres = class_centres().float()
    between = F.normalize(centres.sum(0, keepdim=True))
    assert method.credible(torch.cat([centres[:3], between])).tolist() == [True, True, True, False]
