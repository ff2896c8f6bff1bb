"""When the loop asks whether the run is broken, what it then says, and what a skipped update leaves behind."""

import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from recorded import Noted, Run, record, write_data

from engine import trainer
from engine.finite import BadSteps

REAL = trainer.SharedScaler


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


class NoNumber(Noted):
    """Its second term is not finite from the second step on; the gradients are."""

    def forward(self, head, new, labels, index, clock):
        terms = super().forward(head, new, labels, index, clock)
        return terms | {"pull": terms["pull"] + (torch.nan if clock.step else 0)}


class NoSlope(Noted):
    """Finite terms; the second one, 0, has no gradient at 0 from step 3 (counted from 0) on."""

    def forward(self, head, new, labels, index, clock):
        terms = super().forward(head, new, labels, index, clock)
        return terms | ({"root": (new - new.detach()).square().sum().sqrt()} if clock.step >= 3 else {})


@pytest.mark.parametrize("settings, steps", [
    (["frequent=4"], 4), (["save_every=3"], 3), (["save_every=2", "gradient_acc=4"], 4), ([], 6), (["num_epoch=1"], 6)])
def test_a_broken_run_ends_at_the_next_log_line_checkpoint_or_epoch(settings, steps, data, tmp_path):
    """Though weights and gradients are finite: nothing is saved any more, and the term is named."""
    run = record(data, tmp_path, *settings, method=NoNumber)
    assert run.code == 1 and run.events == [("start", 0), *(("step", n) for n in range(steps))]
    since = 1 if "gradient_acc=4" in settings else 2        # the first step of the update
    assert f"the loss is not finite (pull = nan) since step {since}, whose 8 images" in run.log
    assert f"images of step {since}: {run.steps[since - 1]['index'].tolist()}\n" in run.log
    assert "there was no checkpoint yet" in run.log


def test_a_gradient_that_is_not_finite_ends_the_run(data, tmp_path):
    run = record(data, tmp_path, "frequent=1", "save_every=2", method=NoSlope)
    assert run.code == 1 and len(run.steps) == 4 and ("save", 0, 16) in run.events
    assert "the loss is not finite (its gradient) since step 4, whose 8 images" in run.log
    assert f"{tmp_path}/checkpoints/16 is the last good checkpoint" in run.log


@pytest.fixture(scope="module")
def overflow(data, tmp_path_factory) -> Run:
    """A run with the scaler that it has on CUDA; the images of step 5 (counted from 0) overflow.  Log lines after 1, 4, 8, 12."""
    whole, calls = trainer.to_input, []

    def overflowing(*args):
        calls.append(1)
        return whole(*args) * (torch.inf if len(calls) == 6 else 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "SharedScaler", lambda *_, **__: REAL("cpu", init_scale=2.0**10))
        patch.setattr(trainer, "to_input", overflowing)
        run = record(data, tmp_path_factory.mktemp("overflow"), "frequent=4", "num_epoch=3")
    assert run.code == 0, run.log
    return run


def weights(step: dict) -> list[torch.Tensor]:
    return [value for name, value in step["before"].items() if not name.startswith("backbone.norm.")]


def test_an_update_that_overflows_is_skipped_counted_and_leaves_no_trace(overflow):
    """The log line after it counts it, once; the weights are those before it, and later updates change them."""
    lines = re.findall(r"step (\d+)/18 .* left(?:  (\d+) updates skipped: not finite)?\n", overflow.log)
    assert lines == [("1", ""), ("4", ""), ("8", "1"), ("12", ""), ("16", ""), ("18", "")]
    same = [all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))
            for one, two in zip(overflow.steps, overflow.steps[1:], strict=False)]
    assert same == [n == 5 for n in range(17)]
    assert all(value.isfinite().all() for value in overflow.trainer.plain_backbone.state_dict().values())


def test_batchnorms_statistics_are_restored_to_those_of_the_last_check(overflow):
    """The overflow ruins them in step 5; the end of the epoch, before step 6, finds it.  The last check was after step 3."""
    running = [step["before"]["backbone.norm.running_mean"] for step in overflow.steps]
    assert overflow.log.count("BatchNorm's statistics were not finite after a forward pass that overflowed") == 1
    assert torch.equal(running[6], running[4]) and not torch.equal(running[5], running[4])
    assert all(not torch.equal(a, b) for a, b in zip(running[6:], running[7:], strict=False))


def counted() -> list[tuple[int, int]]:
    """What this rank reads after each of six steps, two to an update; the second rank's loss in step 4 is not finite."""
    steps, read = BadSteps(torch.device("cpu"), False, 2), []
    for step in range(6):
        steps.step(torch.tensor(torch.nan if step == 4 and dist.get_rank() == 1 else 1.0))
        if step % 2:
            steps.update(torch.tensor(False), step)
        read.append(steps.read())
    return read


def test_all_ranks_know_that_one_is_broken():
    assert on_ranks(2, counted) == [[(0, -1)] * 5 + [(1, 4)]] * 2
