"""What a run says while it goes: log lines, a bar on a terminal, TensorBoard."""

import math
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from engine.distributed import Ranks
from engine.method import Clock
from utils.errors import UserError


def duration(seconds: float) -> str:
    """3 d 04 h, 2 h 05 min, 4 min 10 s or 12 s."""
    for name, lower, unit in (("d", "h", 86400), ("h", "min", 3600), ("min", "s", 60)):
        if seconds >= unit:
            below = {"h": 3600, "min": 60, "s": 1}[lower]
            return f"{int(seconds // unit)} {name} {int(seconds % unit // below):02d} {lower}"
    return f"{int(seconds)} s"


class Progress:
    """Sums the terms on the device and reads them at log intervals only: a read makes the host wait for the GPU."""

    def __init__(self, cfg, ranks: Ranks, log, first_step: int, total_steps: int):
        self.cfg, self.ranks, self.log = cfg, ranks, log
        self.first_step, self.total_steps = first_step, total_steps
        self.sums, self.steps, self.broken = {}, 0, 0
        self.begin = self.since = time.monotonic()
        self.writer = SummaryWriter(Path(cfg.output) / "tensorboard") if ranks.rank == 0 else None
        self.bar = tqdm(total=total_steps, initial=first_step, unit=" steps",
                        disable=not (ranks.rank == 0 and sys.stderr.isatty()))

    def step(self, terms: dict[str, Tensor], clock: Clock, lr: float) -> None:
        """Called after each batch (clock.step counts them from 0)."""
        for name, value in terms.items():
            total, count = self.sums.get(name, (0, 0))
            self.sums[name] = total + value, count + 1
        self.steps += 1
        self.bar.update()
        if (clock.step + 1) % self.cfg.frequent == 0 or clock.step + 1 == self.total_steps:
            self.report(clock, lr)

    def report(self, clock: Clock, lr: float) -> None:
        terms = self.mean_terms()
        now = time.monotonic()
        speed = self.cfg.batch_size * self.ranks.world_size * self.steps / (now - self.since)
        done = clock.step + 1 - self.first_step
        left = (now - self.begin) / done * (self.total_steps - clock.step - 1)
        loss = sum(terms.values())
        named = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
        with tqdm.external_write_mode(sys.stderr):
            self.log.info("epoch %d/%d  step %d/%d  loss %.4f  %s  lr %.5f  %.0f images/s  %s left", clock.epoch + 1,
                          self.cfg.num_epoch, clock.step + 1, self.total_steps, loss, named, lr, speed, duration(left))
        self.scalars({"loss": loss, "lr": lr, "images per second": speed}
                     | {f"terms/{name}": value for name, value in terms.items()}, clock.step + 1)
        self.sums, self.steps, self.since = {}, 0, now
        self.check_finite(terms)

    def mean_terms(self) -> dict[str, float]:
        """Means since the last report, over the ranks and the steps that had the term."""
        mean = torch.stack([total.detach().float() / count for total, count in self.sums.values()])
        dist.all_reduce(mean)
        return dict(zip(self.sums, (mean / self.ranks.world_size).tolist(), strict=True))

    def check_finite(self, terms: dict[str, float]) -> None:
        """A loss that is no number ends the run; under a GradScaler, which skips bad steps, at the second report."""
        self.broken = 0 if all(map(math.isfinite, terms.values())) else self.broken + 1
        if self.broken > (self.cfg.fp16 and self.ranks.device.type == "cuda"):
            raise UserError(f"the loss is not finite ({', '.join(f'{n} = {v}' for n, v in terms.items())}); "
                            f"{Path(self.cfg.output) / 'model.pt'} is that of the last whole epoch, if there was one; "
                            f"lower config.lr or set config.fp16 = False")

    def scalars(self, values: dict[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def say(self, text: str) -> None:
        with tqdm.external_write_mode(sys.stderr):
            self.log.info(text)

    @contextmanager
    def pause(self):
        """What is done inside, a verification or a pass over the data, is left out of images/s."""
        begin = time.monotonic()
        yield
        self.since += time.monotonic() - begin

    def close(self) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()
