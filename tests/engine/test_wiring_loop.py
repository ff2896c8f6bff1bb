"""What the loop passes to method, backbone, trainer, checkpoints and verification, step by step, against hand calculations."""

import os
import re
import runpy
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from recorded import BATCH, PER_EPOCH, Noted, Run, Wrapped, image_of, record, write_data
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.method import Method
from engine.signals import StopSignal
from losses import PartialFC, SoftmaxHead
from records.faces import FaceRecords

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory) -> Run:
    """Two epochs of six steps, with a verification after every fourth step."""
    run = record(data, tmp_path_factory.mktemp("plain"), "val_targets=['pairs']", "verbose=4")
    assert run.code == 0, run.log
    return run


def calls(run: Run) -> list:
    return run.trainer.plain_method.calls


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def steps(*numbers: int) -> list[tuple]:
    return [("step", number) for number in numbers]


@pytest.mark.parametrize("acc, expected", [
    (1, [("start", 0), *steps(0, 1, 2), ("save", 0, 24), *steps(3), ("verify", 4), *steps(4, 5), ("model",), ("save", 1, 0),
         ("verify", 6), ("start", 1), *steps(6, 7), ("verify", 8), *steps(8), ("save", 1, 24), *steps(9, 10, 11), ("model",),
         ("save", 2, 0), ("verify", 12)]),
    # A checkpoint that is due is written at the next update: after steps 4, 8 and 12 (from 1).
    (4, [("start", 0), *steps(0, 1, 2, 3), ("save", 0, 32), ("verify", 4), *steps(4, 5), ("model",), ("verify", 6),
         ("start", 1), *steps(6, 7), ("save", 1, 16), ("verify", 8), *steps(8, 9, 10, 11), ("model",), ("save", 2, 0),
         ("verify", 12)]),
    # Updates after steps 5 and 10; the end of the run is saved without an update.
    (5, [("start", 0), *steps(0, 1, 2, 3), ("verify", 4), *steps(4), ("save", 0, 40), *steps(5), ("model",), ("verify", 6),
         ("start", 1), *steps(6, 7), ("verify", 8), *steps(8, 9), ("save", 1, 32), *steps(10, 11), ("model",), ("save", 2, 0),
         ("verify", 12)])])
def test_the_order_of_a_run(acc, expected, data, tmp_path):
    """start_epoch before each epoch, checkpoints after every third step, verifications after every fourth and each epoch."""
    run = record(data, tmp_path, "val_targets=['pairs']", "verbose=4", "save_every=3", f"gradient_acc={acc}")
    assert run.code == 0 and run.events == expected
    assert [step["update"] for step in run.steps] == [(n + 1) % acc == 0 for n in range(12)]


def test_start_epoch_gets_number_backbone_and_images(plain, data, tmp_path):
    """The epoch's number, the plain backbone, the training images; torch's generator depends on the epoch and the seed."""
    epochs, backbones, datasets, seeds = zip(*plain.trainer.plain_method.starts, strict=True)
    assert epochs == (0, 1) and isinstance(plain.trainer.backbone, Wrapped)
    assert all(backbone is plain.trainer.backbone.module for backbone in backbones)
    assert all(isinstance(dataset, FaceRecords) and len(dataset) == 49 for dataset in datasets)
    again, other = (record(data, tmp_path / seed, f"seed={seed}") for seed in ("666", "1"))
    assert seeds == tuple(start[3] for start in again.trainer.plain_method.starts)
    assert len({*seeds, *(start[3] for start in other.trainer.plain_method.starts)}) == 4


def test_a_method_gets_epoch_step_and_progress(plain):
    clocks = [call.clock for call in calls(plain)]
    assert [(clock.epoch, clock.step) for clock in clocks] == [(n // 6, n) for n in range(12)]
    assert [clock.progress for clock in clocks] == pytest.approx([n / 12 for n in range(12)])
    assert [step["clock"] for step in plain.steps] == clocks


def test_a_method_knows_the_records_and_gets_the_head(plain, data):
    method = plain.trainer.plain_method
    assert (method.data.images, method.data.classes) == (49, 5)
    assert method.data.fingerprint == FaceRecords(data / "train").fingerprint()
    assert all(call.head is plain.trainer.head for call in method.calls)


def test_backbone_modes(plain):
    """Training mode in every step, although start_epoch and verification set eval mode; eval mode in verification."""
    net = plain.trainer.plain_backbone
    assert [len(x) for training, x in net.inputs if training] == [BATCH] * 12
    # Four verifications (after steps 4, 6, 8, 12): twenty images and their mirror images, in batches of eight.
    assert [len(x) for training, x in net.inputs if not training] == 4 * [8, 8, 8, 8, 4, 4]
    assert [training for training, _ in net.inputs] == [
        True] * 4 + [False] * 6 + [True] * 2 + [False] * 6 + [True] * 2 + [False] * 6 + [True] * 4 + [False] * 6


def test_images_labels_and_index_belong_together(plain):
    """The network gets image i of the record file, mirrored if the step's flip is set; the method gets its class and i."""
    inputs = [x for training, x in plain.trainer.plain_backbone.inputs if training]
    for x, step, call in zip(inputs, plain.steps, calls(plain), strict=True):
        assert torch.equal(call.index, step["index"]) and torch.equal(call.labels, step["labels"])
        for row, i, label, mirror in zip(x, call.index.tolist(), call.labels.tolist(), step["flip"].tolist(), strict=True):
            image, expected = image_of(i)
            image = image[:, ::-1] if mirror else image
            assert label == expected
            np.testing.assert_allclose(row.permute(1, 2, 0).numpy(), (image.astype(float) - 127.5) / 127.5, atol=1e-6)


def test_each_epoch_is_a_new_permutation(plain):
    """48 of 49 images, each once; the incomplete last batch is left out."""
    epochs = [torch.cat([step["index"] for step in plain.steps[first:first + PER_EPOCH]]).tolist() for first in (0, 6)]
    assert [len(set(epoch)) for epoch in epochs] == [48, 48] and {*epochs[0], *epochs[1]} == set(range(49))
    places = [sum(a == b for a, b in zip(order, other, strict=True)) for order, other in
              ((epochs[0], epochs[1]), (epochs[0], sorted(epochs[0])), (epochs[1], sorted(epochs[1])))]
    assert max(places) < 8


def test_half_of_the_images_are_mirrored_and_others_in_each_step(plain, data, tmp_path):
    flips = [step["flip"] for step in plain.steps]
    assert 30 <= sum(int(flip.sum()) for flip in flips) <= 66       # 48 of 96, within 3.7 standard deviations
    assert len({tuple(flip.tolist()) for flip in flips}) >= 11
    other = record(data, tmp_path, "seed=1", "num_epoch=1")
    assert not same(flips[:6], [step["flip"] for step in other.steps])
    assert not same([step["index"] for step in plain.steps[:6]], [step["index"] for step in other.steps])


def falling(n: int, total: int, warmup: int = 0, power: float = 1.0) -> float:
    return 0.02 * (n / warmup if n < warmup else ((total - n) / (total - warmup)) ** power)


@pytest.mark.parametrize("settings, expected", [
    ([], [falling(n, 12) for n in range(12)]),
    (["lr_power=2"], [falling(n, 12, 0, 2) for n in range(12)]),
    (["lr_power=2", "warmup_epoch=1"], [falling(n, 12, 6, 2) for n in range(12)]),
    (["warmup_epoch=0.5"], [falling(n, 12, 3) for n in range(12)]),
    (["num_epoch=3", "decay_epoch=[1,2]"], [0.02] * 6 + [0.002] * 6 + [0.0002] * 6),
    (["num_epoch=3", "decay_epoch=[2]", "warmup_epoch=1"], [0.02 * n / 6 for n in range(6)] + [0.02] * 6 + [0.002] * 6),
    # Counted in updates: two or three steps each.
    (["gradient_acc=2"], [falling(n // 2, 6) for n in range(12)]),
    (["gradient_acc=3", "warmup_epoch=1", "lr_power=2"], [falling(n // 3, 4, 2, 2) for n in range(12)]),
    (["gradient_acc=2", "num_epoch=3", "decay_epoch=[1,2]"], [0.02] * 6 + [0.002] * 6 + [0.0002] * 6)])
def test_learning_rates(settings, expected, data, tmp_path):
    """The rate of each step; after an update the optimiser's groups (backbone, method, head) have it."""
    run = record(data, tmp_path, *settings)
    assert [step["lr"] for step in run.steps] == pytest.approx(expected, abs=1e-12)
    rates = [step["rates"] for step in run.steps if step["update"]]
    assert all(len(found) == 1 for found in rates) and len(run.trainer.optimizer.param_groups) == 3
    assert [*map(min, rates)] == pytest.approx([lr for lr, step in zip(expected, run.steps, strict=True) if step["update"]])


def test_log_lines_and_curves(data, tmp_path):
    """After the first step, every fifth and the last: mean of each term since the line before, learning rate of the step."""
    run = record(data, tmp_path, "frequent=5", "val_targets=['pairs']")
    assert re.findall(r"epoch (\d)/2  step (\d+)/12  loss", run.log) == [("1", "1"), ("1", "5"), ("2", "10"), ("2", "12")]
    parts = [run.steps[:1], run.steps[1:5], run.steps[5:10], run.steps[10:]]
    means = {name: [float(torch.stack([step["terms"][name] for step in part]).double().mean()) for part in parts]
             for name in ("cls", "pull")}
    curves = {"terms/cls": means["cls"], "terms/pull": means["pull"], "loss": np.add(means["cls"], means["pull"]),
              "lr": [part[-1]["lr"] for part in parts]}
    for name, expected in curves.items():
        assert [step for step, _ in run.values(name)] == [1, 5, 10, 12]
        assert [value for _, value in run.values(name)] == pytest.approx(list(expected), rel=1e-5)
    line = re.search(r"step 5/12  loss ([\d.]+)  cls ([\d.]+)  pull ([\d.]+)  lr ([\d.]+)", run.log)
    assert [float(text) for text in line.groups()] == pytest.approx([run.values(name)[1][1] for name in (
        "loss", "terms/cls", "terms/pull", "lr")], abs=6e-5)
    assert [step for step, _ in run.values("verification/pairs")] == [6, 12]
    for _, accuracy in run.values("verification/pairs"):
        assert 0 < accuracy <= 1 and f"pairs accuracy {100 * accuracy:.2f} +- " in run.log


def test_a_resumed_run_is_the_rest_of_the_straight_one(data, tmp_path):
    """Killed before step 10 of 18, inside the second epoch; the last checkpoint is that of step 8."""
    settings = ["num_epoch=3", "save_every=4", "frequent=1"]
    straight = record(data, tmp_path / "straight", *settings)

    def kill(step):
        if step == 10:
            raise SystemExit(9)
    assert record(data, tmp_path / "half", *settings, before_step=kill).code == 9
    rest = record(data, tmp_path / "half", *settings, "resume=True")
    assert rest.code == 0 and rest.events == straight.events[straight.events.index(("step", 8)):]
    for name in ("index", "labels", "flip", "images"):
        assert same([step[name] for step in rest.steps], [step[name] for step in straight.steps[8:]])
    for name in ("clock", "lr", "update"):
        assert [step[name] for step in rest.steps] == [step[name] for step in straight.steps[8:]]
    assert all(training for training, _ in rest.trainer.plain_backbone.inputs)
    one, two = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("straight", "half"))
    assert same(one.values(), two.values())
    curves = [EventAccumulator(str(tmp_path / name / "tensorboard")).Reload().Scalars("loss") for name in ("straight", "half")]
    assert [[(point.step, point.value) for point in curve] for curve in curves] == [
        [(step, pytest.approx(value)) for step, value in straight.values("loss")]] * 2      # each of the 18 steps once
    done = record(data, tmp_path / "half", *settings, "resume=True", "val_targets=['pairs']")
    assert done.code == 0 and done.events == [("model",), ("verify", 18)]


class Poisoned(Noted):
    """Its second term is not finite from step 9 (from 0) on; its gradients are finite."""

    def forward(self, head, new, labels, index, clock):
        terms = super().forward(head, new, labels, index, clock)
        return terms | {"pull": terms["pull"] + (torch.nan if clock.step >= 9 else 0)}


@pytest.mark.parametrize("batch, numbers", [
    # 16 of 49 images of the second epoch were seen in steps of eight, 33 are left.
    (8, [*range(8, 12), *range(12, 18)]),               # 33 // 8 = 4 steps of 6, before the 12 steps of two epochs
    (6, [*range(11, 16), *range(16, 24)]),              # 33 // 6 = 5 steps of 8, before 16
    (5, [*range(12, 18), *range(18, 27)]),              # 33 // 5 = 6 steps of 9, before 18
    (20, [3, 4, 5]),                                    # 33 // 20 = 1 step of 2, before 4
    (40, [2])])                                         # no step is left of the second epoch; the third has one
def test_an_epoch_ends_at_a_multiple_of_its_steps_whatever_the_batch_size_was(batch, numbers, data, tmp_path):
    def kill(step):
        if step == 8:
            raise SystemExit(9)
    settings = ["num_epoch=3", "save_every=2"]
    assert record(data, tmp_path, *settings, before_step=kill).code == 9
    run = record(data, tmp_path, *settings, "resume=True", f"batch_size={batch}", "save_every=0")
    assert run.code == 0, run.log
    assert [step["clock"].step for step in run.steps] == numbers
    assert [event for event in run.events if event[0] == "save"] == [("save", 2, 0), ("save", 3, 0)]
    steps = 3 * (49 // batch)
    assert numbers[-1] + 1 == steps and f"step {steps}/{steps}  loss" in run.log       # the last step has its line


def test_an_epoch_that_ends_inside_an_accumulation_is_saved_after_the_next_update(data, tmp_path):
    """Steps 11 to 15 end the second epoch (33 images are left, six a step); updates are after steps 11, 14, 17, 20 and 23."""
    def kill(step):
        if step == 8:
            raise SystemExit(9)
    assert record(data, tmp_path, "num_epoch=3", "save_every=2", before_step=kill).code == 9
    run = record(data, tmp_path, "num_epoch=3", "resume=True", "batch_size=6", "gradient_acc=3")
    assert run.code == 0, run.log
    assert [(step["clock"].step, step["update"]) for step in run.steps[:7]] == [
        (11, True), (12, False), (13, False), (14, True), (15, False), (16, False), (17, True)]
    assert [event for event in run.events if event[0] == "save"] == [("save", 2, 12), ("save", 3, 0)]


def test_a_loss_that_is_not_finite_names_term_step_and_images(data, tmp_path):
    """The step of the update's first batch; also after a resumption inside the epoch, with any number of images a step."""
    def kill(step):
        if step == 8:
            raise SystemExit(9)
    for acc, first in ((1, 9), (2, 8)):
        settings = ["save_every=2", "frequent=1", f"gradient_acc={acc}"]
        runs = [(first, record(data, tmp_path / f"{acc} whole", *settings, method=Poisoned))]
        record(data, tmp_path / f"{acc} half", *settings, method=Poisoned, before_step=kill)
        # 48 and 16 images were seen: 8 steps of eight, 16 of four, 16 - 5 of six (33 images are left), 16 + 5 of three.
        for batch, step in ((8, first), (4, 16), (6, 11), (3, 21)):
            runs.append((step, record(data, tmp_path / f"{acc} half", *settings, "resume=True", f"batch_size={batch}",
                                      method=Poisoned)))
        for number, run in runs:
            images = next(given["index"].tolist() for given in run.steps if given["clock"].step == number)
            assert run.code == 1 and f"images of step {number + 1}: {images}\n" in run.log
            assert f"the loss is not finite (pull = nan) since step {number + 1}, whose {len(images)} images" in run.log


@pytest.mark.parametrize("script, head", [("train_old_arc.py", PartialFC), ("train_old_softmax.py", SoftmaxHead)])
def test_the_old_models_scripts(script, head, data, tmp_path):
    """They train with the plain method: the term of an ArcFace head, or of a softmax head, only."""
    run = record(data, tmp_path, "num_epoch=1", start=lambda *_: runpy.run_path(str(ROOT / script), run_name="__main__"))
    assert run.code == 0 and type(run.trainer.head) is head and type(run.trainer.plain_method) is Method
    assert all(step["terms"].keys() == {"cls"} for step in run.steps)


# signals

@pytest.mark.parametrize("acc, last, position", [(1, 8, (1, 24)), (4, 11, (2, 0)), (5, 9, (1, 32))])
def test_a_signal_ends_the_run_at_the_next_update(acc, last, position, data, tmp_path):
    """A SIGTERM during step 8 (from 0): a checkpoint at the next update, exit code 75."""
    def send_signal(step):
        if step == 8:
            os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    run = record(data, tmp_path, "num_epoch=3", f"gradient_acc={acc}", before_step=send_signal)
    assert run.code == 75 and run.steps[-1]["clock"].step == last and run.events[-1] == ("save", *position)
    assert "stopped by SIGTERM" in run.log and signal.getsignal(signal.SIGTERM) == before


def test_the_last_exchange_of_signals_is_over_before_the_group_ends(data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(StopSignal, "finish", lambda self: seen.append(dist.is_initialized()))
    assert record(data, tmp_path).code == 0 and seen == [True]


def test_the_last_exchange_of_signals_is_waited_for():
    stop, waited = StopSignal(), []
    stop.finish()                                   # one rank exchanges nothing
    stop.work = SimpleNamespace(wait=lambda: waited.append(1))
    stop.finish()
    assert waited == [1] and stop.work is None
