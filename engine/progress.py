"""What a run reports while it trains: log lines, a bar on a terminal, TensorBoard."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from engine.distributed import Ranks
from engine.method import Clock
from utils.settings import Settings


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
        self.writer = None
        if ranks.rank == 0:     # points of steps that are repeated are removed
            from torch.utils.tensorboard import SummaryWriter  # takes 0.3 s, and tools/check never writes

            self.writer = SummaryWriter(Path(cfg.output) / "tensorboard", purge_step=first_step + 1)
        self.bar = tqdm(total=total_steps, initial=first_step, unit=" steps",
                        disable=not (ranks.rank == 0 and sys.stderr.isatty()))

    def step(self, terms: dict[str, Tensor], clock: Clock) -> bool:
        """Count one batch (clock.step counts from 0); whether a log line is due."""
        for name, value in terms.items():
            total, count = self.sums.get(name, (0, 0))
            self.sums[name] = total + value, count + 1
        self.steps += 1
        self.bar.update()
        return (clock.step + 1) % self.cfg.frequent == 0 or clock.step + 1 == self.total_steps

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
        speed = self.cfg.batch_size * self.ranks.world_size * self.steps / (now - self.since)
        steps_done = clock.step + 1 - self.first_step
        seconds_left = (now - self.begin) / steps_done * (self.total_steps - clock.step - 1)
        loss, newly_skipped = sum(terms.values()), skipped - self.skipped
        named = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
        warning = f"  {newly_skipped} updates skipped: not finite" if newly_skipped else ""
        self.say(f"epoch {clock.epoch + 1}/{self.cfg.num_epoch}  step {clock.step + 1}/{self.total_steps}  loss {loss:.4f}  "
                 f"{named}  lr {lr:.5f}  {speed:.0f} images/s  {duration(seconds_left)} left{warning}")
        self.scalars({"loss": loss, "lr": lr, "images per second": speed}
                     | {f"terms/{name}": value for name, value in terms.items()}, clock.step + 1)
        self.sums, self.steps, self.since, self.skipped = {}, 0, now, skipped

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Points for TensorBoard, on the first rank."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def say(self, line: str) -> None:
        with tqdm.external_write_mode(sys.stderr):
            self.log.info("%s", line)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The time inside, of a verification or a pass over the data, is left out of images/s."""
        begin = time.monotonic()
        yield
        self.since += time.monotonic() - begin

    def close(self) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()
