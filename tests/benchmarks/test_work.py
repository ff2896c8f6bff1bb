"""The parts that several benchmarks share: counted work, heads, inputs, and seconds of a call."""

import time

import numpy as np
import pytest
import torch

from benchmarks import heads, steps
from benchmarks.feeding import epochs
from benchmarks.heads import KINDS, head_seconds, new_head
from benchmarks.inputs import draw_records, random_rows
from benchmarks.measure import seconds_per_call
from benchmarks.steps import CHANNELS_LAST, FOREACH, FUSED, HALF, Work, plain_step
from records.faces import FaceRecords
from records.loader import train_loader

CPU = torch.device("cpu")


def work_of(function) -> tuple[int, int]:
    with Work() as work:
        function()
    return work.operations, work.bytes


def test_work_by_hand():
    a, b, row = torch.ones(4, 8), torch.ones(8, 16), torch.ones(8)
    assert work_of(lambda: a @ b) == (2 * 4 * 8 * 16, 4 * (4 * 8 + 8 * 16 + 4 * 16))
    assert work_of(lambda: a.view(2, 16).t()[0].detach()) == (0, 0)
    assert work_of(lambda: a.add_(row)) == (0, 4 * (32 + 8 + 32))                  # read both, write the first
    assert work_of(lambda: row.expand(4, 8) + a) == (0, 4 * (8 + 32 + 32))
    assert work_of(lambda: torch.empty(100)) == (0, 0)
    assert work_of(lambda: torch.zeros(100)) == (0, 400)
    assert work_of(lambda: a.half()) == (0, 4 * 32 + 2 * 32)


def test_work_of_a_backward_pass_by_hand():
    layer, x = torch.nn.Conv2d(3, 5, 3, padding=1, bias=False), torch.ones(2, 3, 8, 8, requires_grad=True)
    forward = 2 * 2 * 5 * 8 * 8 * 3 * 9
    assert work_of(lambda: layer(x).sum().backward())[0] == 3 * forward


def test_the_fused_optimiser_moves_less():
    """Gradient, weight and momentum, float32, are read and written (the gradient, because a GradScaler's factor is taken out)."""
    weight = torch.nn.Parameter(torch.ones(1000))
    moved = {}
    for fused in (True, False):
        optimizer = torch.optim.SGD([weight], 0.1, 0.9, weight_decay=0.1, fused=fused, foreach=False)
        weight.grad = torch.ones(1000)
        optimizer.step()
        moved[fused] = work_of(optimizer.step)[1]
    assert moved[True] == 4 * 6000 < moved[False]


@pytest.mark.parametrize("tricks, way", [((), dict(foreach=False, fused=False)), ((FOREACH,), dict(foreach=True, fused=False)),
                                         ((FUSED, HALF), dict(fused=True))])
def test_a_step_has_the_tricks_that_it_is_given(monkeypatch, tricks, way):
    given, made = {}, []
    sgd, get_model = torch.optim.SGD, steps.get_model
    monkeypatch.setattr(torch.optim, "SGD", lambda *a, **named: given.update(named) or sgd(*a, **named))
    monkeypatch.setattr(steps, "get_model", lambda *a, **named: made.append(get_model(*a, **named)) or made[-1])
    for more in ((), (CHANNELS_LAST,)):
        step = plain_step("r18", 16, 2, (*tricks, *more), CPU, dim=8, classes=10)
        before = made[-1].fc.weight.detach().clone()
        step()
        assert not torch.equal(before, made[-1].fc.weight)
        assert made[-1].fp16 == (HALF in tricks) and made[-1].num_features == 8
        assert made[-1].layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last) == (more != ())
    assert given.items() >= way.items()


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_made_on_its_device_learns(one_rank, kind):
    torch.manual_seed(0)
    head = new_head(kind, 8, 200, False, CPU)
    before = head.weight.detach().clone()
    assert before.shape == (200, 8) and 0.005 < before.std() < 0.02
    assert head_seconds(head, kind, 4, CPU) > 0
    changed = (before != head.weight).any(1).sum()
    assert changed == 200 if kind != "sampled" else 20 <= changed <= 4 * 20


def test_a_sampled_head_has_the_documented_rate(one_rank):
    assert new_head("sampled", 8, 200, False, CPU).sampler.count == heads.SAMPLE_RATE * 200


def test_random_rows_fill_every_row(tmp_path):
    rows = random_rows(tmp_path / "rows.npy", np.random.default_rng(0), 2, 70_000, 3)
    assert rows.shape == (2, 70_000, 3) and rows.dtype == np.float32
    assert rows.std(2).min() > 0 and 0.99 < rows.std() < 1.01


def test_epochs_follow_each_other_in_other_orders(tmp_path):
    draw_records(tmp_path / "train", 8)
    batches = epochs(train_loader(FaceRecords(tmp_path), 4, 0, 1, seed=0, workers=0))
    seen = [next(batches)[2].tolist() for _ in range(4)]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(8)) and seen[:2] != seen[2:]
    batches.close()


def test_seconds_of_a_call_by_a_clock_of_its_own(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    calls = []

    def work() -> None:
        calls.append(clock[0])
        clock[0] += 10.0 if len(calls) <= 3 else 0.5        # the first three calls are slow
    assert seconds_per_call(work, CPU, block_seconds=2.0, blocks=3) == 0.5
    assert len(calls) == 3 + 1 + 3 * 4                      # warm, one that is timed, three blocks of 2.0 / 0.5 calls
