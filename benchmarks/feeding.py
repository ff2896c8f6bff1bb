"""The speed of a training loader, alone or with a training step that uses its batches."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.measure import wait_for
from records.faces import FaceRecords
from records.loader import TrainLoader, train_loader

BATCHES_BEFORE = 8          # the first batches wait for the workers to start


def epochs(loader: TrainLoader) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(images, labels, index) of batches without end."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def fed_speed(faces: FaceRecords, batch: int, workers: int, seconds: float, device: torch.device,
              use: Callable[[Tensor, Tensor, Tensor], object] = lambda *_: None) -> float:
    """Images per second, measured for about ``seconds`` after the first batches; ``use`` is called with each batch."""
    batches = epochs(train_loader(faces, batch, 0, 1, seed=0, workers=workers))
    for _ in range(BATCHES_BEFORE):
        use(*next(batches))
    wait_for(device)
    begin, seen = time.perf_counter(), 0
    while seen == 0 or time.perf_counter() - begin < seconds:
        given = next(batches)
        use(*given)
        seen += len(given[0])
    wait_for(device)
    return seen / (time.perf_counter() - begin)
