"""Files of a run: written beside and renamed, so that a name always means a whole file."""

import os
from pathlib import Path

import torch
from torch import nn

from engine.distributed import Ranks
from utils.errors import UserError


def save_whole(data, path: Path) -> None:
    """torch.save(data) to ``path``, which holds either the former file or all of the new one."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        torch.save(data, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def save_epoch(folder: Path, ranks: Ranks, epoch: int, backbone: nn.Module, head: nn.Module, method: nn.Module,
               optimizer: torch.optim.Optimizer, scaler) -> None:
    """After an epoch: model.pt (the plain backbone), every rank's classes, and what resume needs.

    backbone: not wrapped.  softmax_fc_gpu_<rank>.pt holds weight [C_local, d] (and bias) of the classes
    class_start .. class_start + C_local - 1.
    """
    if ranks.rank == 0:
        save_whole({name: t.cpu().contiguous() for name, t in backbone.state_dict().items()}, folder / "model.pt")
    rows = {name: t.cpu() for name, t in head.state_dict().items() if name in ("weight", "bias")}
    save_whole(rows | {"class_start": head.class_start, "num_classes": head.num_classes},
               folder / f"softmax_fc_gpu_{ranks.rank}.pt")
    save_whole({"epoch": epoch + 1, "world_size": ranks.world_size, "backbone": backbone.state_dict(),
                "head": head.state_dict(), "method": method.state_dict(), "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict()}, folder / f"checkpoint_gpu_{ranks.rank}.pt")


def load_epoch(folder: Path, ranks: Ranks, backbone: nn.Module, head: nn.Module, method: nn.Module,
               optimizer: torch.optim.Optimizer, scaler) -> int:
    """Put everything back as :func:`save_epoch` found it; the number of whole epochs done."""
    path = folder / f"checkpoint_gpu_{ranks.rank}.pt"
    if not path.is_file():
        raise UserError(f"config.resume is set but there is no {path}; set config.resume = False to start anew")
    try:
        saved = torch.load(path, map_location=ranks.device, weights_only=True)
        if saved["world_size"] != ranks.world_size:
            raise UserError(f"{path} was written by {saved['world_size']} ranks, this run has {ranks.world_size}; "
                            f"resume on as many as before")
        for part, name in ((backbone, "backbone"), (head, "head"), (method, "method"), (optimizer, "optimizer"),
                           (scaler, "scaler")):
            part.load_state_dict(saved[name])
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} does not fit this config ({str(error).splitlines()[0]}); set config.resume = False "
                        f"to start anew") from error
    return saved["epoch"]
