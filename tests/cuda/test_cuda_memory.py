"""The memory that tools/check foresees against what torch's allocator gave out at most in a real step."""

import gc
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from places import CUDA
from torch.profiler import ProfilerActivity, profile

from engine.cost import gpu_bytes, pretended_ranks
from engine.distributed import Ranks, start_ranks
from engine.method import Clock, Method
from engine.prepare import build
from engine.trainer import Trainer
from losses import PartialFC
from records.facts import Facts
from utils.config import load_config
from utils.paths import ROOT
from utils.settings import Settings

CONFIG = ROOT / "configs/f512_r18_arc_class30.py"
TOY = ["network=mbf", "image_size=32", "batch_size=48", "fp16=False"]
CASES = [pytest.param("cpu", TOY, 2_000, id="mbf on the CPU"),
         *(pytest.param(*CUDA.values, settings, classes, id=name, marks=CUDA.marks) for name, settings, classes in (
             ("r50", ["network=r50", "batch_size=128"], 93_431),
             ("r18, a million classes", ["network=r18", "batch_size=64"], 1_000_000),
             ("r18 with adamw, a sample", ["network=r18", "batch_size=128", "optimizer=adamw", "sample_rate=0.2"], 93_431)))]


def step(trainer: Trainer, cfg: Settings, classes: int) -> None:
    size = cfg.image_size
    images = torch.randint(256, (cfg.batch_size, size, size, 3), dtype=torch.uint8)
    labels = torch.randint(classes, (cfg.batch_size,))
    trainer.step(images, labels, torch.arange(cfg.batch_size), labels % 2 == 0, Clock(0, 0, 0.0), 0.01)


def most_on_the_gpu(cfg: Settings, classes: int, ranks: Ranks) -> int:
    """Bytes; the first steps are left out, in which cudnn tries algorithms with all the memory that is free."""
    gc.collect()
    torch.cuda.empty_cache()
    others = torch.cuda.memory_allocated()
    trainer = build(cfg, Facts(10 ** 5, classes), ranks, Method, PartialFC)
    for _ in range(3):
        step(trainer, cfg, classes)
    torch.cuda.reset_peak_memory_stats()
    step(trainer, cfg, classes)
    return torch.cuda.max_memory_allocated() - others


def most_on_the_cpu(cfg: Settings, classes: int, ranks: Ranks, trace: Path) -> int:
    """Bytes: weights and moments, and the most that torch's profiler has seen in a step on top of them."""
    trainer = build(cfg, Facts(10 ** 5, classes), ranks, Method, PartialFC)
    step(trainer, cfg, classes)
    kept = sum(tensor.nbytes for part in (trainer.plain_backbone, trainer.head) for tensor in part.state_dict().values())
    kept += sum(moment.nbytes for state in trainer.optimizer.state.values() for moment in state.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(trainer, cfg, classes)
    profiler.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    first, *_ = events = sorted(events, key=lambda event: event["ts"])
    before = first["args"]["Total Allocated"] - first["args"]["Bytes"]
    return kept + max(event["args"]["Total Allocated"] for event in events) - before


@pytest.mark.long
@pytest.mark.parametrize("device, settings, classes", CASES)
def test_the_estimate_is_within_15_percent(device, settings, classes, tmp_path):
    cfg = load_config(CONFIG, [*settings, f"output={tmp_path}"])
    with pretended_ranks(1):
        parts = gpu_bytes(cfg, classes, 1, PartialFC, None)
    ranks = start_ranks()
    try:
        assert ranks.device.type == device
        found = most_on_the_gpu(cfg, classes, ranks) if device == "cuda" else most_on_the_cpu(cfg, classes, ranks,
                                                                                              tmp_path / "trace.json")
    finally:
        dist.destroy_process_group()
    assert sum(parts.values()) - parts["CUDA"] == pytest.approx(found, rel=0.15), (parts, found)
