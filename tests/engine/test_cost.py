"""The estimated cost of a training against the files that one writes and the memory that torch allocates in a real step."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from backbones import get_model
from engine import cost
from engine.checkpoint import Checkpoints
from engine.checkpoint_files import Position
from engine.method import Method
from engine.prepare import build
from engine.signals import StopSignal
from losses import PartialFC, SoftmaxHead
from records.facts import Facts
from utils.config import load_config

CONFIG = Path(__file__).resolve().parents[2] / "configs/f128_r18_softmax_class30.py"
SMALL = ["network=mbf", "image_size=16", "batch_size=4", "val_targets=[]"]


def test_disk_is_what_a_training_writes(tmp_path, one_rank):
    """Against the files that the loop's own class writes after three epochs, with an optimiser that has momentum."""
    cfg, data = load_config(CONFIG, [*SMALL, "num_epoch=3", f"output={tmp_path}"]), Facts(images=12, classes=3000)
    trainer = build(cfg, data, one_rank, Method, PartialFC)
    for parameter in (*trainer.plain_backbone.parameters(), *trainer.head.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    checkpoints = Checkpoints(cfg, data, one_rank, trainer, {}, StopSignal(), logging.getLogger("bct"))
    for epoch in (1, 2, 3):
        checkpoints.epoch_ends(Position(epoch), True)
    written = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    one = sum(file.stat().st_size for file in tmp_path.glob("checkpoints/36/*"))
    at_the_end, most = cost.training_bytes(cfg, 3000, 1)
    assert at_the_end == pytest.approx(written, rel=0.03) and most - at_the_end == pytest.approx(one, rel=0.03)
    assert cost.training_bytes(cfg, 3000, 1, 10**6)[0] == at_the_end + 2 * 10**6


def test_peak_of_a_step_counted_by_hand():
    """Two layers of squares: x [8, 1000] -> a = x^2 -> b = a^2 -> loss; 4 bytes a number."""
    class Squares(nn.Module):
        def forward(self, x):
            return x.square().square().sum()

    with FakeTensorMode():
        most = cost.step_bytes(Squares(), torch.empty(8, 1000, requires_grad=True))
    assert 3 * 32_000 <= most <= 5 * 32_000         # a, b forwards; a, its gradient and a factor of it backwards


def allocated_in_a_step(model: nn.Module, images: torch.Tensor, file: Path) -> int:
    """Largest number of bytes that torch's allocator has given out in a real step, as its profiler logs them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        out = model(images)
        out.backward(torch.empty_like(out))
    profiler.export_chrome_trace(str(file))
    events = [event for event in json.loads(file.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    first, *_ = events = sorted(events, key=lambda event: event["ts"])
    return max(event["args"]["Total Allocated"] for event in events) - first["args"]["Total Allocated"] + first["args"]["Bytes"]


@pytest.mark.long
def test_memory_without_data_is_what_a_real_step_allocates(tmp_path):
    def model():
        return get_model("mbf", num_features=8, image_size=32).train()

    images = torch.zeros(8, 3, 32, 32)
    real = allocated_in_a_step(model(), images, tmp_path / "trace.json")
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert cost.step_bytes(model(), images) == pytest.approx(real, rel=0.02)


def test_class_vectors_are_sharded_and_images_are_not():
    cfg = load_config(CONFIG, [*SMALL, "network=r18"])
    parts = {}
    for ranks in (1, 8):
        with cost.pretended_ranks(ranks):
            parts[ranks] = cost.gpu_bytes(cfg, 8000, ranks, PartialFC, None)
    assert parts[1]["classes"] == 2 * 4 * 8000 * 128 == 8 * parts[8]["classes"]
    assert parts[1]["images"] == parts[8]["images"]
    rows, classes = 4, 8000             # one rank: cosine, logit and gradient of its rows, at least, in float32
    assert parts[1]["logits"] > 3 * 4 * rows * classes


def test_memory_of_a_sampled_head_and_of_a_softmax_head():
    """Against a margin head on all classes: a tenth of the classes needs less than a fifth, softmax more than half."""
    whole, sampled = load_config(CONFIG, SMALL), load_config(CONFIG, [*SMALL, "sample_rate=0.1"])
    with cost.pretended_ranks(1):
        all_classes, tenth = (cost.head_step_bytes(cfg, 8000, 1, PartialFC) for cfg in (whole, sampled))
        softmax = cost.head_step_bytes(whole, 8000, 1, SoftmaxHead)
    assert 0 < tenth < 0.2 * all_classes and softmax > 0.5 * all_classes
