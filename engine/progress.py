"""What a run reports while it trains: log lines, a bar on a terminal, TensorBoard."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from engine.distributed import Ranks, in_short
from engine.method import Clock
from utils.settings import Settings

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

MANY_TIMES = 4      # a step is called slow from here on: another job on the same cores takes half of them, not three quarters


def duration(seconds: float) -> str:
    """3 d 04 h, 2 h 05 min, 4 min 10 s or 12 s."""
    for name, lower, unit in (("d", "h", 86400), ("h", "min", 3600), ("min", "s", 60)):
        if seconds >= unit:
            below = {"h": 3600, "min": 60, "s": 1}[lower]
            return f"{int(seconds // unit)} {name} {int(seconds % unit // below):02d} {lower}"
    return f"{int(seconds)} s"


class Progress:
    """Sums the terms on the device and reads them at log intervals only: a read makes the host wait for the GPU."""

    def __init__(self, cfg: Settings, ranks: Ranks, log: logging.Logger, first_step: int, total_steps: int):
        """first_step: the step (0-based) at which this process starts or resumes the run."""
        self.cfg, self.ranks, self.log, self.first_step, self.total_steps = cfg, ranks, log, first_step, total_steps
        self.sums: dict[str, tuple[Tensor | int, int]] = {}
        self.steps = self.skipped = 0
        self.begin = self.since = time.monotonic()
        self.fastest: float | None = None       # seconds of a step, in the first log interval after the first step
        self.writer: SummaryWriter | None = None
        if ranks.rank == 0:     # points of steps that are repeated are removed
            from torch.utils import tensorboard  # takes 0.3 s, and tools/check never writes

            with self.points_may_fail():
                self.writer = tensorboard.SummaryWriter(Path(cfg.output) / "tensorboard", purge_step=first_step + 1)
        self.bar = tqdm(total=total_steps, initial=first_step, unit=" steps",
                        disable=not (ranks.rank == 0 and sys.stderr.isatty()))

    def step(self, terms: dict[str, Tensor], clock: Clock) -> bool:
        """Count one batch (clock.step counts from 0); whether a log line is due: after this process's first step, every
        config.frequent steps, and after the last one.
        """
        for name, value in terms.items():
            total, count = self.sums.get(name, (0, 0))
            self.sums[name] = total + value, count + 1
        self.steps += 1
        try:
            self.bar.update()
        except OSError:                         # the terminal was closed
            self.bar.disable = True
        return clock.step == self.first_step or (clock.step + 1) % self.cfg.frequent == 0 or clock.step + 1 == self.total_steps

    def mean_terms(self) -> dict[str, float]:
        """Means since the last report, over the ranks and the steps that had the term.  A collective."""
        if not self.sums:
            return {}
        mean = torch.stack([torch.as_tensor(total).detach().float() / count for total, count in self.sums.values()])
        dist.all_reduce(mean)
        return dict(zip(self.sums, (mean / self.ranks.world_size).tolist(), strict=True))

    def report(self, terms: dict[str, float], clock: Clock, lr: float, skipped: int) -> None:
        """One log line and its points.  terms: of :meth:`mean_terms`; skipped: updates that were not finite since the start."""
        now = time.monotonic()
        slow = self.slow((now - self.since) / self.steps, first=clock.step == self.first_step)
        speed = self.cfg.batch_size * self.ranks.world_size * self.steps / (now - self.since)
        steps_done = clock.step + 1 - self.first_step
        seconds_left = (now - self.begin) / steps_done * (self.total_steps - clock.step - 1)
        loss, newly_skipped = sum(terms.values()), skipped - self.skipped
        named = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
        warning = f"  {newly_skipped} updates skipped: not finite" if newly_skipped else ""
        self.say(f"epoch {clock.epoch + 1}/{self.cfg.num_epoch}  step {clock.step + 1}/{self.total_steps}  loss {loss:.4f}  "
                 f"{named}  lr {lr:.5f}  {speed:.0f} images/s  {duration(seconds_left)} left{warning}{slow}")
        self.scalars({"loss": loss, "lr": lr, "images per second": speed}
                     | {f"terms/{name}": value for name, value in terms.items()}, clock.step + 1)
        self.sums, self.steps, self.since, self.skipped = {}, 0, now, skipped

    def slow(self, seconds: float, first: bool) -> str:
        """What to add to the log line if a step takes ``seconds``, many times as long as at first; first: the first step.

        The first step is not compared: it makes the workers and the network's memory.
        """
        if not first and self.fastest is None:
            self.fastest = seconds
        if first or self.fastest is None or seconds <= MANY_TIMES * self.fastest:
            return ""
        advice = "" if self.ranks.device.type != "cpu" else " (on a shared machine: OMP_NUM_THREADS=1, or GOMP_SPINCOUNT=1000)"
        return (f"  a step takes {seconds / self.fastest:.0f} times as long as at first: load {os.getloadavg()[0]:.1f} on "
                f"{len(os.sched_getaffinity(0))} cores{advice}")

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Points for TensorBoard, on the first rank."""
        with self.points_may_fail():
            if self.writer is not None:
                for name, value in values.items():
                    self.writer.add_scalar(name, value, step)

    @contextmanager
    def points_may_fail(self) -> Iterator[None]:
        """Warn once if TensorBoard's file cannot be written, and write no more points: they are not worth a training."""
        try:
            yield
        except Exception as error:              # its writer is a thread, whose errors arrive as errors of many kinds
            self.log.warning("a point could not be written to %s/tensorboard (%s); the run continues without further points",
                             self.cfg.output, in_short(error))
            self.writer = None

    def say(self, line: str) -> None:
        if self.bar.disable:
            self.log.info("%s", line)
            return
        try:
            with tqdm.external_write_mode(sys.stderr):
                self.log.info("%s", line)
        except OSError:                         # the terminal was closed; perhaps before the line was logged
            self.bar.disable = True
            self.log.info("%s", line)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The time inside, of a verification or a pass over the data, is left out of images/s."""
        begin = time.monotonic()
        yield
        self.since += time.monotonic() - begin

    def close(self) -> None:
        self.bar.close()
        with self.points_may_fail():
            if self.writer is not None:
                self.writer.close()
