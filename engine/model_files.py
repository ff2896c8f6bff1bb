"""What a training leaves: model.pt, the plain backbone, and the classifier shards; writer and reader."""

import hashlib
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.distributed import Ranks
from utils.arrays import load_pt, one_line
from utils.errors import UserError
from utils.files import whole_file
from utils.origin import describe


class Hashed:
    """A file that knows the sha256 of what was written to it, and what kept it from being written."""

    def __init__(self, file):
        self.file, self.sha256, self.bytes, self.error = file, hashlib.sha256(), 0, None

    def write(self, data) -> int:
        try:
            self.file.write(data)
        except OSError as error:        # torch's writer would say something else
            self.error = error
            raise
        self.sha256.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def save_whole(data, path: Path) -> dict:
    """torch.save(data) to ``path``, which holds either the former file or all of the new one: {bytes, sha256}.

    OSError where it cannot be written, a full disk above all; then nothing is left of the new one.
    """
    with whole_file(path) as part, open(part, "wb") as file:
        hashed = Hashed(file)
        try:
            torch.save(data, hashed)
        except RuntimeError:
            if hashed.error is not None:
                raise hashed.error from None
            raise
    return {"bytes": hashed.bytes, "sha256": hashed.sha256.hexdigest()}


def save_model(folder: Path, ranks: Ranks, backbone: nn.Module, head: nn.Module) -> None:
    """model.pt (the plain backbone) and softmax_fc_gpu_<rank>.pt: weight [C_local, d] (and bias) of the classes
    class_start .. class_start + C_local - 1."""
    if ranks.rank == 0:
        save_whole({name: t.cpu().contiguous() for name, t in backbone.state_dict().items()}, folder / "model.pt")
    rows = {name: t.cpu() for name, t in head.state_dict().items() if name in ("weight", "bias")}
    save_whole(rows | {"class_start": head.class_start, "num_classes": head.num_classes},
               folder / f"softmax_fc_gpu_{ranks.rank}.pt")
    if ranks.rank == 0:                 # of a run on more ranks: its classes would be counted twice
        for rank, file in classifier_shards(folder).items():
            if rank >= ranks.world_size:
                file.unlink()


def load_classifier(folder: Path, dim: int) -> Tensor:
    """Unit rows float32 [C_old, dim]: the old model's class vectors."""
    rows = whole_classifier(folder)["weight"]
    if rows.shape[1] != dim:
        raise UserError(f"the classifier in {folder} has {describe(rows.numpy())} rows, expected {dim} dimensions; give the "
                        f"folder of an old model with config.embedding_size = {dim}")
    return F.normalize(rows.float())


def classifier_shards(folder: Path) -> dict[int, Path]:
    """{rank: softmax_fc_gpu_<rank>.pt} in ``folder``, in the order of the ranks."""
    named = {re.fullmatch(r"softmax_fc_gpu_(\d+)\.pt", path.name): path for path in folder.glob("softmax_fc_gpu_*.pt")}
    return dict(sorted((int(found[1]), path) for found, path in named.items() if found))


def whole_classifier(folder: Path) -> dict[str, Tensor]:
    """{"weight": [C, d]} and of a softmax head {"bias": [C]}, from the shards of all ranks that a training left in ``folder``."""
    files = list(classifier_shards(folder).values())
    if not files:
        raise UserError(f"no softmax_fc_gpu_*.pt in {folder}; expected the folder that a training left, for example "
                        f"work_dirs/f128_r18_softmax_class30")
    shards, classes = [], 0
    for file in files:
        try:
            shard = load_pt(file)
            held = {name: shard[name] for name in ("weight", "bias") if name in shard}
            if any(t.layout != torch.strided or t.nbytes > file.stat().st_size for t in held.values()):
                raise ValueError("it promises more numbers than it holds")
            if held["weight"].dim() != 2 or {len(t) for t in held.values()} != {len(held["weight"])}:
                raise ValueError(f"it holds {describe(held['weight'].numpy())} instead of [classes, d]")
            first, expected = shard.get("class_start", classes), shard.get("num_classes")
        except Exception as error:      # torn files, other tensors: torch has an exception for each
            raise UserError(f"{file} is no shard of a classifier ({one_line(error)}); copy it again or train that model "
                            f"again") from error
        shards.append((held, expected, held["weight"].shape[1]))
        if first != classes or shards[-1][1:] != shards[0][1:]:
            raise UserError(f"{file} is a shard of another training than the ones before it, or one is missing: it begins with "
                            f"class {first}, expected {classes}; copy all shards of one training")
        classes += len(held["weight"])
    if classes != (expected or classes):
        raise UserError(f"{len(files)} shards in {folder} hold {classes} classes, expected {expected}; copy all shards of one "
                        f"training")
    return {name: torch.cat([held[name] for held, _, _ in shards]) for name in shards[0][0]}
