"""Steps that are not finite under a real GradScaler: they are skipped and counted, and a checkpoint keeps the scale."""

import itertools
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from places import ON_EACH_DEVICE
from ranks import on_ranks
from toy_loop import Killed, kill_after, newest, train, write_data
from trainings import differences

from engine import trainer
from engine.distributed import Ranks
from engine.finite import MAX_SKIPPED_IN_A_ROW, BadSteps
from engine.method import Clock, Method
from engine.state import rank_state
from losses import ArcFace, PartialFC
from records.facts import Facts

REAL = trainer.SharedScaler
SETTINGS = ["network=mbf", "num_epoch=5", "save_every=4", "lr_power=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def scaled(monkeypatch) -> list:
    """Give trainings CUDA's loss scaler with a first scale that overflows float32; [(scale, weights)] after each step."""
    whole, steps = trainer.Trainer.step, []

    def step(self, *args):
        out = whole(self, *args)
        weights = [p.detach().clone() for p in (*self.plain_backbone.parameters(), self.head.weight)]
        steps.append((self.scaler.get_scale(), weights))
        return out
    monkeypatch.setattr(trainer.Trainer, "step", step)
    monkeypatch.setattr(trainer, "SharedScaler", partial(on_the_cpu, growth_interval=6))
    return steps


def on_the_cpu(*_, enabled: bool, **more) -> trainer.SharedScaler:
    return REAL("cpu", enabled=True, init_scale=2.0**126, **more)


@pytest.mark.long
def test_overflows_are_skipped_and_counted(scaled, data, tmp_path):
    code, log = train(data, tmp_path, *SETTINGS, head=PartialFC)
    assert code == 0, log
    skipped = [i for i in range(1, len(scaled)) if scaled[i][0] < scaled[i - 1][0]]
    assert len(skipped) >= 2                            # at the start, and whenever the scale has grown too far
    for i in range(1, len(scaled)):
        same = all(torch.equal(one, two) for one, two in zip(scaled[i][1], scaled[i - 1][1], strict=True))
        assert same == (i in skipped)
    counted = [int(n) for n in re.findall(r"(\d+) updates skipped: not finite", log)]
    assert sum(counted) == len(skipped) + (scaled[0][0] < 2.0**126)


@pytest.mark.long
def test_the_scale_is_part_of_a_checkpoint(scaled, data, tmp_path, monkeypatch):
    assert train(data, tmp_path / "whole", *SETTINGS, head=PartialFC)[0] == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 15)
        train(data, tmp_path / "half", *SETTINGS, head=PartialFC)
    torch.distributed.destroy_process_group()
    code, log = train(data, tmp_path / "half", *SETTINGS, "resume=True", head=PartialFC)
    assert code == 0 and "resumed from" in log
    one, two = newest(tmp_path / "half"), newest(tmp_path / "whole")
    assert two["scaler"]["scale"] < 2.0**126 and differences(one, two) == []


@pytest.mark.long
def test_twenty_skipped_updates_in_a_row_end_the_run(scaled, data, tmp_path, monkeypatch):
    good = Method.forward

    def poisoned(self, head, new, labels, index, clock):
        return {name: term * (torch.nan if clock.step >= 8 else 1) for name, term in
                good(self, head, new, labels, index, clock).items()}
    monkeypatch.setattr(Method, "forward", poisoned)
    code, log = train(data, tmp_path, *SETTINGS, "num_epoch=8", head=PartialFC)
    last = log.splitlines()[-1]
    assert code == 1 and "the loss is not finite (cls = nan) since step 9, whose 8 images the line before names" in last
    assert len(scaled) == 8 + MAX_SKIPPED_IN_A_ROW
    assert f"{tmp_path}/checkpoints/" in last and "is the last good checkpoint" in last
    assert torch.isfinite(newest(tmp_path)["tensors"]["head/weight"]).all()


def skip_one(optimizer: str, sample_rate: float, overflow: str, device: str) -> tuple[bool, list[str], int]:
    """Overflow the first of three steps of a trainer, and compare it with one that only does the other two, on this rank.

    Returns (whether nothing changed in the first step, names of what differs in the end, number of skipped updates).
    """
    cfg = SimpleNamespace(optimizer=optimizer, lr=0.1, momentum=0.9, weight_decay=0.01, fp16=False, clip=5.0, gradient_acc=1)
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), torch.device(device))
    trainer.SharedScaler = lambda *_, enabled: REAL(device, enabled=True, growth_interval=1000)
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 8)).to(device)
        head = PartialFC(ArcFace(8.0), 8, 7, sample_rate=sample_rate).to(device)
        made.append(trainer.Trainer(cfg, ranks, backbone, Method(cfg, Facts(64, 7)), head))
        made[-1].scaler._init_scale = 4.0
    broken, good = made

    def step(one, number, harm=1.0):
        draw = torch.Generator().manual_seed(number)
        images = torch.randint(256, (4, 4, 4, 3), dtype=torch.uint8, generator=draw)
        labels = torch.randint(7, (4,), generator=draw)
        whole = one.scaler.unscale_

        def unscale(optimizer):
            if overflow == "all ranks" or overflow == "a shard of one" and ranks.rank == 1:
                optimizer.param_groups[-1]["params"][0].grad *= harm
            whole(optimizer)
        one.scaler.unscale_ = unscale
        one.step(images, labels, torch.arange(4), torch.zeros(4, dtype=torch.bool), Clock(0, number, 0.0), 0.1)
        one.scaler.unscale_ = whole

    junk = [torch.full((64,), 7.7, device=device) for _ in range(1000)]
    del junk                                            # an uninitialised buffer would hold these numbers
    before = {name: value.clone() for name, value in rank_state(broken)["tensors"].items()}
    step(broken, 0, torch.inf)
    after = rank_state(broken)["tensors"]
    same = all(torch.equal(value, after[name]) for name, value in before.items() if "drawn" not in name)
    if sample_rate < 1:
        broken.head.sampler.step = 0                    # the next step then draws the rows that the other trainer draws
    step(broken, 1), step(good, 1), step(broken, 2), step(good, 2)
    one, two = rank_state(broken), rank_state(good)
    return same, [name for name in differences(one, two) if name != "scaler"], broken.bad_steps.read()[0]


def skip_all(device: str) -> dict[str, tuple]:
    kinds = itertools.product(["sgd", "adamw"], [1.0, 0.8], ["all ranks", "a shard of one"])
    return {f"{optimizer} {rate} {overflow}": skip_one(optimizer, rate, overflow, device) for optimizer, rate, overflow in kinds}


@ON_EACH_DEVICE
def test_the_ranks_skip_an_update_together_and_without_a_trace(device):
    """Also at the first update, when a fused optimiser has no state yet, and also if all ranks overflow.

    On a GPU both ranks share it: gloo exchanges tensors of a GPU, too.
    """
    for found in on_ranks(2, skip_all, device):
        assert found == dict.fromkeys(found, (True, [], 1))


def test_bad_updates_are_counted(one_rank):
    good, nan = torch.tensor(1.0), torch.tensor(torch.nan)
    overflow, fine = torch.tensor(True), torch.tensor(False)
    scaled, plain = BadSteps(one_rank.device, True, 1), BadSteps(one_rank.device, False, 2)
    for step in range(60):
        scaled.step(good)
        scaled.update(overflow if step % MAX_SKIPPED_IN_A_ROW else fine, step)      # 19 in a row, three times
    assert scaled.read() == (57, -1)
    for step in range(60, 90):
        scaled.step(nan if step < 85 else good)
        scaled.update(fine, step)
    assert scaled.read() == (82, 41)
    for step in range(8):
        plain.step(nan if step == 2 else good)                          # of the update after step 3
        if step % 2:
            plain.update(fine, step)
    assert plain.read() == (1, 2)
