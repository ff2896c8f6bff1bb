"""Steps whose loss or gradient is not finite: counted on the device, read when the log is written; and what they leave behind."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.checkpoint_files import Position, last_words
from engine.progress import Progress
from records.loader import ShuffledBatches
from utils.errors import UserError

if TYPE_CHECKING:
    from engine.prepare import Run

MAX_SKIPPED_IN_A_ROW = 20       # updates; after so many a GradScaler does not recover


class BadSteps:
    """How many updates were not finite, and since when the run is broken.

    One such update breaks a run.  A GradScaler skips it; then MAX_SKIPPED_IN_A_ROW successive ones break the run.  Only
    :meth:`read` makes the host wait for the device.
    """

    def __init__(self, device: torch.device, scaled: bool, steps_per_update: int):
        self.allowed, self.steps = (MAX_SKIPPED_IN_A_ROW if scaled else 1), steps_per_update
        self.loss = torch.zeros((), dtype=torch.bool, device=device)    # not finite since the last update
        self.row, self.all = torch.zeros(2, dtype=torch.int64, device=device)
        self.since = torch.tensor(-1, device=device)        # first step of the broken run, -1 = not broken

    def step(self, loss: Tensor) -> None:
        """Note one step.  loss: a scalar."""
        self.loss |= ~loss.detach().isfinite()

    def update(self, bad: Tensor, step: int) -> None:
        """Note one update.  bad: bool scalar, True = the gradient of the update after ``step`` (0-based) was not finite."""
        bad = bad | self.loss
        self.loss = torch.zeros_like(self.loss)
        self.row, self.all = (self.row + 1) * bad, self.all + bad
        first = step + 1 - self.allowed * self.steps
        self.since = torch.where((self.row == self.allowed) & (self.since < 0), max(first, 0), self.since)

    def read(self) -> tuple[int, int]:
        """(updates that were not finite, first step of the broken run or -1), the largest of all ranks.  A collective."""
        both = torch.stack([self.all, self.since])
        dist.all_reduce(both, dist.ReduceOp.MAX)
        updates, since = both.tolist()
        return updates, since


class Statistics:
    """BatchNorm's running statistics: a forward pass that overflows ruins them for good, although its update is skipped."""

    def __init__(self, backbone: nn.Module):
        self.running = [value for value in backbone.buffers() if value.is_floating_point()]
        self.kept = [value.clone() for value in self.running]

    def mend(self) -> bool:
        """Whether they were ruined since the last call; if so, they are restored to their values at that call."""
        ruined = bool(self.running) and not torch.stack([value.isfinite().all() for value in self.running]).all()
        for value, kept in zip(self.running, self.kept, strict=True):
            source, target = (kept, value) if ruined else (value, kept)
            target.copy_(source)
        return ruined


class Guard:
    """Ends a run that is broken, and repairs what a skipped overflow left behind."""

    def __init__(self, training: "Run", progress: Progress, start: Position):
        """start: where this process started or resumed the run."""
        self.training, self.progress, self.start = training, progress, start
        self.bad_steps, self.statistics = training.trainer.bad_steps, Statistics(training.trainer.plain_backbone)

    def check(self, terms: dict[str, float] | None = None) -> int:
        """Updates so far that were not finite.  A collective.

        terms: loss terms by name; None = those since the last report.  Raises :class:`UserError` if the run is broken.
        """
        skipped, broken_since = self.bad_steps.read()
        if broken_since >= 0:
            # The first update after a resumption with another batch size can have fewer steps than the others.
            first_step = self.training.steps_before(self.start)
            self.fail(max(broken_since, first_step), self.progress.mean_terms() if terms is None else terms)
        if self.statistics.mend():
            self.training.log.warning("BatchNorm's statistics were not finite after a forward pass that overflowed; they are "
                                      "restored to those of the last log line")
        return skipped

    def fail(self, step: int, terms: dict[str, float]) -> None:
        """End the run: name the terms that are not finite, the images of the first such step, and the last good checkpoint."""
        cfg, training = self.training.cfg, self.training
        broken = [f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)]
        batches = ShuffledBatches(training.data.images, cfg.batch_size, 0, training.ranks.world_size, cfg.seed)
        batches.epoch, number = divmod(step, len(batches))
        if batches.epoch == self.start.epoch:       # other ranks may have begun this epoch
            batches.seen, number = self.start.images, step - training.steps_before(self.start)
        self.progress.say(f"images of step {step + 1}: {batches.remaining()[number].ravel().tolist()}")
        raise UserError(f"the loss is not finite ({', '.join(broken) or 'its gradient'}) since step {step + 1}, whose "
                        f"{training.batch} images the line before names; {last_words(Path(cfg.output))}; look at these images, "
                        f"lower config.lr or set config.fp16 = False, and resume with resume=True")
