"""Bytes of a checkpoint, of a disk and of a GPU, each counted by hand from the settings."""

from collections import namedtuple
from pathlib import Path

import torch
from torch import nn

from backbones import get_model
from engine import cost
from utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]
OLD = "configs/f128_r18_softmax_class30.py"


def test_the_bytes_of_a_checkpoint_by_hand():
    """Weights and one momentum (sgd) or two moments (adamw): the backbone's on every rank, the classes' divided over them."""
    backbone = sum(p.numel() for p in get_model("mbf", num_features=128, image_size=16).parameters())
    for optimizer, numbers in (("sgd", 2), ("adamw", 3)):
        for more, kept in (([], 2), (["num_epoch=1"], 1), (["num_epoch=1", "save_every=5"], 2), (["keep_checkpoints=4"], 4)):
            cfg = load_config(ROOT / OLD, ["network=mbf", "image_size=16", f"optimizer={optimizer}", *more])
            checkpoint = 4 * numbers * (3 * backbone + 50 * 128) + 3 * 70
            left = kept * checkpoint + 4 * (backbone + 50 * 128)
            assert cost.training_bytes(cfg, 50, 3, 70) == (left, left + checkpoint), (optimizer, more)


def test_disks_add_up_what_goes_to_the_same_one(tmp_path, monkeypatch):
    monkeypatch.setattr(cost.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(77))
    (tmp_path / "a").mkdir()
    assert cost.disks({tmp_path / "a": 5, tmp_path / "not/yet": 7, tmp_path: -3}) == [(tmp_path / "a", 12, 77)]


class FakeHead:
    """Keeps what the head is made of."""

    def __init__(self, *arguments, **_):
        self.arguments = arguments

    def to_empty(self, device: str) -> "FakeHead":
        return self


def test_each_part_of_a_gpus_memory_by_hand(monkeypatch):
    """sgd: everything that learns is kept twice.  The steps get the shapes of a rank's batch and the sampled classes."""
    cfg = load_config(ROOT / OLD, ["network=mbf", "image_size=32", "batch_size=6", "sample_rate=0.5"])
    steps = []
    monkeypatch.setattr(cost, "step_bytes", lambda module, *inputs: steps.append((module, inputs)) or len(steps))
    method = nn.Linear(9, 1, bias=False)
    method.register_buffer("kept", torch.zeros(25))
    method.view_has_head = False
    parts = cost.gpu_bytes(cfg, 101, 2, FakeHead, method)
    backbone = get_model("mbf", num_features=128, image_size=32)
    weights = sum(t.numel() * t.element_size() for t in (*backbone.parameters(), *backbone.buffers()))
    assert parts == {"backbone": 2 * weights, "classes": 2 * 4 * 51 * 128, "method": 36 + 100 + 2 * 36, "images": 1, "logits": 2,
                     "CUDA": 10**9}
    (_, (images,)), (head, (rows, labels)) = steps
    assert (images.shape, rows.shape, labels.shape) == ((6, 3, 32, 32), (6, 128), (6,)) and head.arguments[1:] == (128, 50)
