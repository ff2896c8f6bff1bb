"""Runs a training in this process, on the CPU, a toy set and a toy backbone, and records the calls that the loop makes."""

import inspect
import io
import multiprocessing
import pickle
import sys
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from toy import jpeg, write_records

from engine import loop, parts, trainer
from engine.checkpoint import Checkpoints
from engine.method import Clock, Method
from engine.progress import Progress
from engine.trainer import Trainer
from losses import PartialFC

COUNTS = [9, 12, 7, 10, 11]             # images of each class: 49, six batches of eight and one image
DIM, BATCH, PER_EPOCH = 8, 8, 6
CONFIG = (f"config = dict(rec='train', image_size=16, batch_size={BATCH}, num_epoch=2, lr=0.02, val_targets=[], frequent=1000, "
          f"workers=0, embedding_size={DIM}, fp16=False, scale=8.0)")


class Net(nn.Module):
    """Flatten, batch norm, linear.  inputs: (training mode, a copy of the input) of each call."""

    def __init__(self, dim: int, image_size: int, norm: bool = True):
        super().__init__()
        pixels = 3 * image_size**2
        self.norm = nn.BatchNorm1d(pixels) if norm else nn.Identity()
        self.fc = nn.Linear(pixels, dim)
        self.inputs = []

    def forward(self, x):
        self.inputs.append((self.training, x.clone()))
        return self.fc(self.norm(x.flatten(1)))


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children()}


class Call(NamedTuple):
    """One call of a method.  children: ids of this process's child processes at that time."""

    head: nn.Module
    new: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    clock: Clock
    children: set[int]


class Noted(Method):
    """A method of two terms, the second with a parameter of its own.

    starts: (epoch, backbone, dataset, seed of torch's global generator) of each epoch.
    """

    def __init__(self, cfg, data):
        super().__init__(cfg, data)
        self.data = data
        self.target = nn.Parameter(torch.ones(cfg.embedding_size))
        self.starts, self.calls = [], []

    def start_epoch(self, epoch, backbone, dataset):
        self.starts.append((epoch, backbone, dataset, torch.initial_seed()))
        backbone.eval()                 # allowed to a method

    def forward(self, head, new, labels, index, clock):
        self.calls.append(Call(head, new.detach().clone(), labels.clone(), index.clone(), clock, children()))
        return {"cls": head(new, labels), "pull": 0.1 * (new - self.target).square().mean()}


class Wrapped(nn.Module):
    """In place of DistributedDataParallel on one rank: another object than the plain module."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args):
        return self.module(*args)


@dataclass
class Run:
    """What a run did.

    events: ("start", epoch), ("step", step), ("verify", step), ("model",) and ("save", epoch, images), in order.
    steps: for each call of Trainer.step its arguments by name, "terms" (its result), "rates" (learning rates of all parameter
    groups after it) and "before" (weights of backbone and head before it).  scalars: (name, value, step) for TensorBoard.
    networks: arguments of get_model.  timeouts: arguments of start_ranks.  repeatable: (torch's deterministic algorithms,
    cuDNN's benchmark mode) during the run.  children: ids of this process's child processes before the run.
    code: exit code.  log: stderr.
    """

    events: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    scalars: list = field(default_factory=list)
    networks: list = field(default_factory=list)
    timeouts: list = field(default_factory=list)
    trainer: Trainer | None = None
    repeatable: tuple[bool, bool] | None = None
    children: set[int] = field(default_factory=children)
    code: int = 0
    log: str = ""

    def values(self, name: str) -> list[tuple[int, float]]:
        """[(step, value)] of a TensorBoard curve."""
        return [(step, value) for curve, value, step in self.scalars if curve == name]


def write_data(folder: Path) -> Path:
    """Write train.rec, toy.py (the config) and pairs.bin: ten pairs, alternately of one class and of two."""
    write_records(folder / "train", COUNTS)
    (folder / "toy.py").write_text(CONFIG)
    same = [True, False] * 5
    images = [jpeg(label, 90 + side, 16) for k in range(10) for side, label in enumerate((k % 5, (k + 1 - same[k]) % 5))]
    (folder / "pairs.bin").write_bytes(pickle.dumps((images, same)))
    return folder


def image_of(index: int) -> tuple[np.ndarray, int]:
    """(RGB pixels uint8 [16, 16, 3], class) of an image of train.rec, decoded without the project's readers."""
    label = int(np.searchsorted(np.cumsum(COUNTS), index, "right"))
    return cv2.imdecode(np.frombuffer(jpeg(label, index + 1, 16), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1], label


def record(data: Path, output: Path, *settings: str, head: type[PartialFC] = PartialFC, method: type[Method] = Noted,
           norm: bool = True, before_step=None, start=loop.main) -> Run:
    """Run the training script with these settings.  before_step(step) may raise SystemExit in place of a kill."""
    run, log = Run(), io.StringIO()
    with Recording(run, norm, before_step).in_place() as patch, redirect_stderr(log):
        patch.setattr(sys, "argv", ["train.py", str(data / "toy.py"), f"dataset={data}", f"output={output}", *settings])
        try:
            start(method, head)
        except SystemExit as end:
            run.code = end.code
        finally:
            if dist.is_initialized() and dist.get_world_size() == 1:
                dist.destroy_process_group()
    run.log = log.getvalue()
    return run


class Recording:
    """Replaces what the loop calls; each method gets the original as ``original``."""

    def __init__(self, run: Run, norm: bool, before_step):
        self.run, self.norm, self.before_step = run, norm, before_step

    def network(self, name, **more):
        self.run.networks.append({"name": name, **more})
        return Net(more["num_features"], more["image_size"], self.norm)

    def ranks(self, original, timeout=30):
        self.run.timeouts.append(timeout)
        return replace(original(timeout), device=torch.device("cpu"))

    def start_epoch(self, original, method, epoch, *args):
        self.run.events.append(("start", epoch))
        return original(method, epoch, *args)

    def step(self, original, made, *args, **more):
        given = inspect.signature(original).bind(made, *args, **more)
        given.apply_defaults()
        given = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in given.arguments.items()}
        if self.before_step:
            self.before_step(given["clock"].step)
        self.run.events.append(("step", given["clock"].step))
        self.run.trainer = made
        self.run.repeatable = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        state = {"backbone": made.plain_backbone.state_dict(), "head": made.head.state_dict()}
        before = {f"{part}.{name}": value.clone() for part, values in state.items() for name, value in values.items()}
        terms = original(made, *args, **more)
        rates = {group["lr"] for group in made.optimizer.param_groups}
        self.run.steps.append(given | {"rates": rates, "terms": terms, "before": before})
        return terms

    def scalars(self, original, progress, values, step):
        self.run.scalars += [(name, value, step) for name, value in values.items()]
        if any(name.startswith("verification/") for name in values):
            self.run.events.append(("verify", step))
        return original(progress, values, step)

    def save(self, original, checkpoints, position):
        self.run.events.append(("save", position.epoch, position.images))
        return original(checkpoints, position)

    def model(self, original, checkpoints):
        self.run.events.append(("model",))
        return original(checkpoints)

    @contextmanager
    def in_place(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parts, "get_model", self.network)
            patch.setattr(loop, "start_ranks", partial(self.ranks, loop.start_ranks))
            if not dist.is_initialized():
                patch.setattr(trainer, "replicate", Wrapped)
            for owner, name, recorder in ((Noted, "start_epoch", self.start_epoch), (Trainer, "step", self.step),
                                          (Progress, "scalars", self.scalars), (Checkpoints, "write", self.save),
                                          (Checkpoints, "write_model", self.model)):
                patch.setattr(owner, name, method_of(partial(recorder, getattr(owner, name))))
            yield patch


def method_of(function):
    """A function that becomes a method of an object, which a partial does not."""
    return lambda self, *args, **more: function(self, *args, **more)
