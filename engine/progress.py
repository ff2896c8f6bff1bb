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

from engine.checkpoint import Position, last_words
from engine.distributed import Ranks
from engine.finite import Statistics
from engine.method import Clock
from engine.trainer import Trainer
from records.loader import ShuffledBatches
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

    def __init__(self, cfg, ranks: Ranks, log, start: Position, total_steps: int, trainer: Trainer):
        """start: where this run begins or goes on."""
        self.cfg, self.ranks, self.log, self.start, self.total_steps = cfg, ranks, log, start, total_steps
        self.bad_steps, self.statistics, self.skipped = trainer.bad_steps, Statistics(trainer.plain_backbone), 0
        batch = cfg.batch_size * ranks.world_size
        self.first_step = first_step = start.epoch * (cfg.num_image // batch) + start.images // batch
        self.sums, self.steps = {}, 0
        self.begin = self.since = time.monotonic()
        self.writer = None
        if ranks.rank == 0:     # points of steps that are done again make room
            self.writer = SummaryWriter(Path(cfg.output) / "tensorboard", purge_step=first_step + 1)
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
        loss, bad = sum(terms.values()), self.check_finite()
        named = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
        with tqdm.external_write_mode(sys.stderr):
            self.log.info("epoch %d/%d  step %d/%d  loss %.4f  %s  lr %.5f  %.0f images/s  %s left%s", clock.epoch + 1,
                          self.cfg.num_epoch, clock.step + 1, self.total_steps, loss, named, lr, speed, duration(left),
                          f"  {bad - self.skipped} updates skipped: not finite" if bad > self.skipped else "")
        self.scalars({"loss": loss, "lr": lr, "images per second": speed}
                     | {f"terms/{name}": value for name, value in terms.items()}, clock.step + 1)
        self.sums, self.steps, self.since, self.skipped = {}, 0, now, bad

    def check_finite(self) -> int:
        """Updates so far that were not finite; ends the run where it is broken."""
        bad, since = self.bad_steps.read()
        if since >= 0:
            # The first update of a run that was resumed with another batch size can have fewer steps than the others.
            self.fail(max(since, self.first_step))
        if self.statistics.mend():
            self.log.warning("BatchNorm's statistics were not finite after a forward pass that overflowed; they are again those "
                             "of the last log line")
        return bad

    def fail(self, since: int) -> None:
        """Say which terms are no numbers, which images were in the first such step, and what is left."""
        terms = self.mean_terms() if self.sums else {}
        broken = [f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)]
        cfg, world_size = self.cfg, self.ranks.world_size
        batches = ShuffledBatches(cfg.num_image, cfg.batch_size, 0, world_size, cfg.seed)
        batches.epoch, number = divmod(since, len(batches))
        if batches.epoch == self.start.epoch:       # which may have been left in the middle by other ranks
            batches.seen, number = self.start.images, since - self.first_step
        self.say(f"images of step {since + 1}: {batches.left()[number].ravel().tolist()}")
        raise UserError(f"the loss is not finite ({', '.join(broken) or 'its gradient'}) since step {since + 1}, whose "
                        f"{cfg.batch_size * world_size} images the line before names; {last_words(Path(cfg.output))}; look at "
                        f"these images, lower config.lr or set config.fp16 = False, and go on with resume=True")

    def mean_terms(self) -> dict[str, float]:
        """Means since the last report, over the ranks and the steps that had the term."""
        mean = torch.stack([total.detach().float() / count for total, count in self.sums.values()])
        dist.all_reduce(mean)
        return dict(zip(self.sums, (mean / self.ranks.world_size).tolist(), strict=True))

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
