"""What a part of benchmarks/gpu.py is given, and the sizes of a real and of a dry run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.measure import copy_speed, product_speed, seconds_per_call
from engine.distributed import Ranks

# The names of one measurement, and the function that does it: it returns one row, or several.
Case = tuple[dict, Callable[[], dict | list[dict]]]
Cases = Iterator[Case]


@dataclass(frozen=True)
class Sizes:
    """networks, batches: of the training step; the first of each are used by the parts that need one.  Seconds: of a block of
    calls, of which ``blocks`` are measured, and of a measurement of the loader."""

    networks: tuple[str, ...]
    batches: tuple[int, ...]
    image: int
    dim: int
    classes: int
    head_classes: tuple[int, ...]
    workers: tuple[int, ...]
    record_images: int
    embedded_images: int
    evaluation_share: float
    gallery: tuple[int, int]        # rows and probes of the search
    product_rows: int
    copied: int                     # float32 of a copy
    block_seconds: float
    blocks: int
    warm: int                       # calls before these
    loader_seconds: float
    compiler: str                   # backend of torch.compile
    tests: str
    training: tuple[str, ...]       # settings of the trainings on a real set
    threads: int | None             # of torch on the CPU; None: as many as there are cores


REAL = Sizes(networks=("r50", "r100", "r18"), batches=(128, 256), image=112, dim=512, classes=93_431,
             head_classes=(93_431, 1_000_000, 5_000_000), workers=(1, 2, 4, 8), record_images=60_000, embedded_images=20_480,
             evaluation_share=1.0, gallery=(2_000_000, 10_000), product_rows=8192, copied=1 << 27, block_seconds=0.3, blocks=4,
             warm=3, loader_seconds=2.0, compiler="inductor", tests="tests",
             # Of the README's run on LFW, at 112x112 with the recipe's networks.
             training=("num_epoch=16", "batch_size=64", "warmup_epoch=1", "scale=16", "margin_list=(1.0,0.2,0.0)", "workers=4",
                       "val_targets=[]", "keep_checkpoints=1", "old:lr=0.1", "new:lr=0.2", "new:clip=100", "BCT:bct_scale=16"),
             threads=None)
DRY = Sizes(networks=("cnn_s",), batches=(2,), image=16, dim=8, classes=40, head_classes=(40,), workers=(1,), record_images=64,
            embedded_images=6, evaluation_share=0.001, gallery=(300, 10), product_rows=64, copied=1 << 10, block_seconds=0.0,
            blocks=1, warm=0, loader_seconds=0.01, compiler="eager", tests="tests/benchmarks/test_work.py", threads=1,
            training=("num_epoch=1", "batch_size=8", "network=mbf", "image_size=16", "workers=0", "val_targets=[]"))


@dataclass(frozen=True)
class Job:
    """folder: for temporary files of this part.  kept: for files that are a result.  deadline: time.monotonic() after which no
    measurement begins.  records, ijb: folders of a real data set, if given."""

    ranks: Ranks
    sizes: Sizes
    folder: Path
    kept: Path
    deadline: float
    records: Path | None = None
    ijb: Path | None = None
    peaks: dict[torch.dtype, float] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.ranks.device

    @cached_property
    def copied_per_second(self) -> float:
        """Bytes that the device reads and writes per second in a copy."""
        return copy_speed(self.device, self.sizes.copied)

    def seconds_per_call(self, work: Callable[[], object], blocks: int | None = None) -> float:
        """Median seconds of a call; blocks: as the sizes say, if not given."""
        sizes = self.sizes
        return seconds_per_call(work, self.device, sizes.block_seconds, blocks or sizes.blocks, sizes.warm)

    def measure_speeds(self) -> None:
        """Measure them now: later it would need memory in a measurement whose memory counts."""
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            self.operations_per_second(dtype)
        _ = self.copied_per_second

    def operations_per_second(self, dtype: torch.dtype) -> float:
        """Floating-point operations per second in a large product."""
        if dtype not in self.peaks:
            self.peaks[dtype] = product_speed(dtype, self.device, self.sizes.product_rows)
        return self.peaks[dtype]
