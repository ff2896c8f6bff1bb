"""Run a function as n gloo ranks on this machine and collect what each returns."""

import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(world_size: int, function, *args) -> list:
    """[function(*args) on rank 0, on rank 1, ...]; the function must be importable, the results picklable."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_one, (world_size, folder, function, args), nprocs=world_size)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _one(rank: int, world_size: int, folder: str, function, args) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", world_size), rank=rank,
                            world_size=world_size)
    torch.save(function(*args), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
