"""A training script in this process on a toy set of 49 images, and a training that is killed at a given step."""

import io
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from toy import write_records

from engine.checkpoint_files import found_in
from engine.loop import main
from engine.trainer import Trainer
from losses import PartialFC, SoftmaxHead
from utils.paths import ROOT

COUNTS = [9, 12, 7, 10, 11]             # images of each class
SMALL = ["image_size=16", "batch_size=8", "num_epoch=2", "lr=0.02", "val_targets=[]", "frequent=1", "workers=0"]


def write_data(folder: Path) -> Path:
    """The training set that the config of :func:`train` names."""
    write_records(folder / "train_part_30_class", COUNTS)
    return folder


def train(data: Path, output: Path, *settings: str, head: type[PartialFC] = SoftmaxHead) -> tuple[int, str]:
    """(exit code, stderr) of the training script with these settings, run in this process."""
    config = str(ROOT / "configs/f128_r18_softmax_class30.py")
    log = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(log):
        patch.setattr("sys.argv", ["train.py", config, f"dataset={data}", f"output={output}", *SMALL, *settings])
        try:
            main(head=head)
            code = 0
        except SystemExit as end:
            code = end.code
    if dist.is_initialized():
        dist.destroy_process_group()
    return code, log.getvalue()


class Killed(Exception):
    """In place of a kill of the process."""


def kill_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the next training raise :class:`Killed` after so many steps."""
    original, calls = Trainer.step, []

    def counted(*args):
        calls.append(1)
        if len(calls) > steps:
            raise Killed
        return original(*args)
    patch.setattr(Trainer, "step", counted)


def newest(output: Path, rank: int = 0) -> dict:
    """What the newest checkpoint holds of a rank."""
    name = max(found_in(output / "checkpoints"), key=int)
    return torch.load(output / "checkpoints" / name / f"rank_{rank}.pt", weights_only=True)
