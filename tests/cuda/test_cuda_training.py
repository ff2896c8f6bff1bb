"""Trainings on a device: the same bits twice and after a kill; a checkpoint of one device on the other and back."""

import logging
from pathlib import Path

import pytest
import torch
from places import CUDA, ON_EACH_DEVICE
from toy import write_records
from trainings import differences, join, newest_files, start

from engine.checkpoint import Checkpoints
from engine.checkpoint_files import Position
from engine.distributed import Ranks
from engine.method import Clock, Method
from engine.prepare import build
from engine.signals import StopSignal
from engine.state import rank_state
from losses import PartialFC
from records.facts import Facts
from utils.config import load_config
from utils.paths import ROOT

CONFIG = ROOT / "configs/f128_r18_softmax_class30.py"
SMALL = ["network=mbf", "image_size=16", "batch_size=8", "num_epoch=2", "lr=0.02", "val_targets=[]", "workers=1",
         "deterministic=True", "frequent=2", "embedding_size=32"]
SAMPLED = ["optimizer=adamw", "lr=0.001", "sample_rate=0.6"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_records(folder / "train_part_30_class", [9, 12, 7, 10, 11])
    return folder


def train(data: Path, output: Path, device: str, *settings: str, kill=None) -> int:
    """Exit code of a training in a process of its own; what it wrote to stderr is in ``output``_log."""
    log = output.with_name(f"{output.name}_log")
    log.mkdir(exist_ok=True)
    arguments = [str(CONFIG), f"dataset={data}", f"output={output}", *SMALL, *settings]
    code, = join(start(arguments, None, kill=kill, folder=log, device=device), seconds=300)
    return code


def said(output: Path) -> str:
    return Path(f"{output}_log/log_0").read_text()


def newest(output: Path) -> dict:
    file, = newest_files(output)
    return torch.load(file, map_location="cpu", weights_only=True)


@pytest.mark.long
@pytest.mark.parametrize("device, settings", [
    pytest.param("cpu", SAMPLED, id="cpu"), pytest.param(*CUDA.values, SAMPLED, marks=CUDA.marks, id="cuda, adamw and a sample"),
    pytest.param(*CUDA.values, ["network=r18"], marks=CUDA.marks, id="cuda, sgd")])
def test_deterministic_is_the_same_bits_twice_and_after_a_kill(device, settings, data, tmp_path):
    once, twice, killed = (tmp_path / name for name in ("once", "twice", "killed"))
    assert [train(data, output, device, *settings) for output in (once, twice)] == [0, 0], said(once) + said(twice)
    assert train(data, killed, device, *settings, "save_every=2", kill=(0, "step", 9)) == -9, said(killed)
    assert train(data, killed, device, *settings, "save_every=2", "resume=True") == 0, said(killed)
    assert "resumed from" in said(killed) and f"on 1 x {device}" in said(once)
    whole = newest(once)
    assert whole["tensors"] and differences(whole, newest(twice)) == [] == differences(whole, newest(killed))
    assert bool(whole["scaler"]) == (device == "cuda")


@pytest.mark.long
@ON_EACH_DEVICE
def test_a_training_that_changes_the_device_twice(device, data, tmp_path):
    """In float32, against an uninterrupted training on the CPU: the differences are roundings of 12 steps."""
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    settings = ["fp16=False", "save_every=3"]
    assert train(data, whole, "cpu", *settings) == 0, said(whole)
    assert train(data, moved, device, *settings, kill=(0, "step", 5)) == -9, said(moved)
    assert train(data, moved, "cpu", *settings, "resume=True", kill=(0, "step", 5)) == -9, said(moved)
    assert "resumed from" in said(moved) and "on 1 x cpu" in said(moved)
    assert train(data, moved, device, *settings, "resume=True") == 0, said(moved)
    assert "resumed from" in said(moved) and f"on 1 x {device}" in said(moved)
    expected, found = newest(whole)["tensors"], newest(moved)["tensors"]
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if device == "cpu":
            assert torch.equal(found[name], value), name
        else:
            torch.testing.assert_close(found[name], value, rtol=0.01, atol=0.01 * value.abs().max().item(), msg=name)


def of(device: str, output: Path, optimizer: str, sample_rate: float) -> Checkpoints:
    """The checkpoints of a small trainer on ``device``."""
    cfg = load_config(CONFIG, [*SMALL, f"optimizer={optimizer}", f"sample_rate={sample_rate}",
                               f"output={output}", "resume=True"])
    ranks, facts = Ranks(0, 1, torch.device(device)), Facts(images=64, classes=20)
    trainer = build(cfg, facts, ranks, Method, PartialFC)
    return Checkpoints(cfg, facts, ranks, trainer, {}, StopSignal(), logging.getLogger("bct"))


def step(checkpoints: Checkpoints, number: int) -> None:
    draw = torch.Generator().manual_seed(number)
    images = torch.randint(256, (8, 16, 16, 3), dtype=torch.uint8, generator=draw)
    labels = torch.randint(20, (8,), generator=draw)
    checkpoints.trainer.step(images, labels, torch.arange(8), labels % 2 == 0, Clock(0, number, 0.0), 0.01)


@ON_EACH_DEVICE
@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_is_read_to_the_bit_on_the_other_device(optimizer, sample_rate, device, tmp_path, one_rank):
    """device -> CPU -> device, with a step on each; all tensors are where the weights are, and the random state goes along."""
    places, before = [device, "cpu", device], None
    for number, place in enumerate(places):
        made = of(place, tmp_path, optimizer, sample_rate)
        position = made.resume()
        state = rank_state(made.trainer)
        if before is not None:
            assert position == Position(0, 8 * number)
            assert [name for name in differences(before, moved(state)) if name in state["tensors"]] == []
            assert torch.equal(before["random"]["cpu"], state["random"]["cpu"])
        homes = {name: value.device.type for name, value in state["tensors"].items() if "drawn" not in name}
        assert set(homes.values()) == {place}, homes
        step(made, number)
        made.save(Position(0, 8 * (number + 1)))
        before = moved(rank_state(made.trainer))
    assert made.trainer.bad_steps.read() == (0, -1)


def moved(state: dict) -> dict:
    return state | {"tensors": {name: value.cpu().clone() for name, value in state["tensors"].items()}}
