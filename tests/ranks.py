"""Run a function as n gloo ranks on this machine and collect their results."""

import os
import tempfile
import traceback
from multiprocessing.connection import wait
from pathlib import Path

import torch
import torch.distributed as dist
from processes import start


def on_ranks(world_size: int, function, *args) -> list:
    """[function(*args) on rank 0, on rank 1, ...]; the function must be importable, the results picklable.

    AssertionError with a rank's traceback if one fails; the others are then killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = [start(_one, rank, world_size, folder, function, args) for rank in range(world_size)]
        running = {process.sentinel: rank for rank, process in enumerate(ranks)}
        try:
            while running:
                for sentinel in wait(running):
                    rank = running.pop(sentinel)
                    ranks[rank].join()
                    error = Path(folder) / f"{rank}.error"
                    assert ranks[rank].exitcode == 0, (f"rank {rank} ended with {ranks[rank].exitcode}\n"
                                                       + (error.read_text() if error.is_file() else ""))
        finally:
            for process in ranks:
                process.kill()
                process.join()
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _one(rank: int, world_size: int, folder: str, function, args) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", world_size), rank=rank,
                                world_size=world_size)
        torch.save(function(*args), Path(folder) / f"{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        Path(folder, f"{rank}.error").write_text(traceback.format_exc())
        raise
