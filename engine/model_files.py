"""The results of a training: model.pt (the plain backbone) and the classifier; writers and readers."""

import hashlib
import re
from pathlib import Path
from typing import IO, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.weights import fingerprint
from engine.checkpoint_files import about_checkpoint, problem_of
from engine.distributed import Ranks
from evaluation.view_files import save_view, view_file
from losses import PartialFC, View
from utils.arrays import load_pt, one_line
from utils.errors import UserError
from utils.files import whole_file
from utils.origin import describe


class Hashed:
    """A binary file that computes the sha256 of what is written to it, and keeps the error that stopped a write."""

    def __init__(self, file):
        self.file, self.sha256, self.bytes, self.error = file, hashlib.sha256(), 0, None

    def write(self, data) -> int:
        try:
            self.file.write(data)
        except OSError as error:        # torch's writer would raise another error instead
            self.error = error
            raise
        self.sha256.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def save_whole(data, path: Path) -> dict:
    """torch.save(data) to ``path``: {"bytes", "sha256"} of the file.

    ``path`` is at every moment either the former file or all of the new one.  Raises OSError if it cannot be written (a full
    disk); nothing of the new file remains then.
    """
    with whole_file(path) as part, open(part, "wb") as file:
        hashed = Hashed(file)
        try:
            torch.save(data, cast(IO[bytes], hashed))           # torch needs write and flush only
        except RuntimeError:
            if hashed.error is not None:
                raise hashed.error from None
            raise
    return {"bytes": hashed.bytes, "sha256": hashed.sha256.hexdigest()}


def save_model(folder: Path, ranks: Ranks, backbone: nn.Module, head: PartialFC, views: dict[int, View]) -> None:
    """Write model.pt (rank 0: the plain backbone) and softmax_fc_gpu_<rank>.pt (every rank).

    For each view of d_o dimensions rank 0 writes view_<d_o>.npz, and every rank the classes of its head, if it has one, into the
    folder view_<d_o>.
    """
    if ranks.rank == 0:
        state = {name: t.cpu().contiguous() for name, t in backbone.state_dict().items()}
        save_whole(state, folder / "model.pt")
        model = fingerprint(state) if views else ""
        for view in views.values():
            save_view(folder, view.matrix().numpy(), model)
        for file in set(folder.glob("view_*.npz")) - {view_file(folder, dim) for dim in views}:
            file.unlink()               # of a former run
    save_shards(folder, ranks, head)
    for dim, own in head.views.items():
        save_shards(view_file(folder, dim).with_suffix(""), ranks, own)


def save_shards(folder: Path, ranks: Ranks, head: PartialFC) -> None:
    """Write softmax_fc_gpu_<rank>.pt: weight [C_local, d] (and bias) of the classes class_start .. class_start + C_local - 1."""
    rows = {name: t.cpu() for name, t in head.state_dict().items() if name in ("weight", "bias")}
    save_whole(rows | {"class_start": head.class_start, "num_classes": head.num_classes},
               folder / f"softmax_fc_gpu_{ranks.rank}.pt")
    if ranks.rank == 0:                 # shards of a former run on more ranks would be counted as classes of this one
        for rank, file in classifier_shards(folder).items():
            if rank >= ranks.world_size:
                file.unlink()


def load_classifier(folder: Path, dim: int) -> Tensor:
    """The old model's class vectors, unit rows float32 [C_old, dim].  Raises :class:`UserError` for another dimension."""
    rows = whole_classifier(folder)["weight"]
    if rows.shape[1] != dim:
        raise UserError(f"the classifier in {folder} has {describe(rows.numpy())} rows, expected {dim} dimensions; give the "
                        f"folder of an old model with config.embedding_size = {dim}")
    return F.normalize(rows.float())


def classifier_shards(folder: Path) -> dict[int, Path]:
    """{rank: softmax_fc_gpu_<rank>.pt} of the shards in ``folder``, by ascending rank."""
    names = {re.fullmatch(r"softmax_fc_gpu_(\d+)\.pt", path.name): path for path in folder.glob("softmax_fc_gpu_*.pt")}
    return dict(sorted((int(name[1]), path) for name, path in names.items() if name))


def whole_classifier(folder: Path) -> dict[str, Tensor]:
    """{"weight": [C, d]}, and {"bias": [C]} of a softmax head, from the shards of all ranks that a training wrote to ``folder``.

    Raises :class:`UserError` if there are none, if one is corrupt, or if they are not of one training.
    """
    files = list(classifier_shards(folder).values())
    if not files:
        raise UserError(f"no softmax_fc_gpu_*.pt in {folder}; expected the output folder of a training, for example "
                        f"work_dirs/f128_r18_softmax_class30")
    shards: list[dict[str, Tensor]] = []
    expected, classes = None, 0
    for file in files:
        rows, first, expected_here = read_shard(file, classes)
        expected = expected_here if not shards else expected
        other_dim = shards and rows["weight"].shape[1] != shards[0]["weight"].shape[1]
        if first != classes or other_dim or expected_here != expected:
            raise UserError(f"{file} is a shard of another training than the ones before it, or one is missing: it begins with "
                            f"class {first}, expected {classes}; copy all shards of one training")
        shards.append(rows)
        classes += len(rows["weight"])
    if classes != (expected or classes):
        raise UserError(f"{len(files)} shards in {folder} hold {classes} classes, expected {expected}; copy all shards of one "
                        f"training")
    return {name: torch.cat([rows[name] for rows in shards]) for name in shards[0]}


def classifier_in_checkpoint(folder: Path, view: int | None = None) -> dict[str, Tensor]:
    """{"weight": [C, d]}, and {"bias": [C]} of a softmax head, from the checkpoint in ``folder``.

    view: dimensions of the view whose head is meant; None: that of the whole embedding.

    Raises :class:`UserError` if a file of the checkpoint is missing or corrupt, or if such a view has no head.
    """
    about = about_checkpoint(folder)
    problem = problem_of(folder, about)
    if problem or isinstance(about, str):
        raise UserError(f"{problem}; export another checkpoint")
    ranks = [torch.load(folder / file, map_location="cpu", mmap=True, weights_only=True)["tensors"] for file in about["files"]]
    head = "head" if view is None else f"head_{view}"
    if f"{head}/weight" not in ranks[0]:
        raise UserError(f"{folder} has no head of a view of {view} dimensions; leave out --view")
    return {name: torch.cat([rank[f"{head}/{name}"] for rank in ranks]) for name in ("weight", "bias")
            if f"{head}/{name}" in ranks[0]}


def read_shard(file: Path, classes_before: int) -> tuple[dict[str, Tensor], int, int | None]:
    """(rows by name, first class, classes of the whole classifier or None) of one shard.

    A file of the public code has rows only; its first class is ``classes_before``, the number of classes in the shards before.
    """
    try:
        shard = load_pt(file)
        rows = {name: shard[name] for name in ("weight", "bias") if name in shard}
        if any(t.layout != torch.strided or t.nbytes > file.stat().st_size for t in rows.values()):
            raise ValueError("it promises more numbers than it holds")
        if rows["weight"].dim() != 2 or {len(t) for t in rows.values()} != {len(rows["weight"])}:
            raise ValueError(f"it holds {describe(rows['weight'].numpy())} instead of [classes, d]")
        return rows, shard.get("class_start", classes_before), shard.get("num_classes")
    except Exception as error:      # corrupt files, other tensors: torch raises errors of many kinds
        raise UserError(f"{file} is not a classifier shard ({one_line(error)}); copy it again or train that model "
                        f"again") from error
