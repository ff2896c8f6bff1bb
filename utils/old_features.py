"""What the old model leaves for the new one: files in feature_save, and whether they belong to this run.

Row i of every per-image array belongs to image i of the record file.  Beside each .npy stands a .json that
says which model and which records it was computed from, and keeps its checksums; whoever reads the array compares.
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.weights import fingerprint, load_state
from utils.arrays import load_pt, one_line, open_npy
from utils.config import locate
from utils.errors import UserError
from utils.files import checksums, damage, write_text, written_beside

FEATURE_SAVE = str(Path(__file__).resolve().parents[1] / "feature_save")

# What --SD ends in -> (scenario folder in feature_save, record file in config.dataset).
PARTS = {
    "class100": ("EXclass", "train"),
    "data100": ("EXdata", "train"),
    "class70": ("OPclass", "train_part_70_class"),
    "data70": ("OPdata", "train_part_70_data"),
    "class30": ("OPclass", "train_part_30_class"),
    "data30": ("OPdata", "train_part_30_data"),
}


def part_of(sd: str) -> tuple[str, str]:
    """(scenario folder, record file) of a source-and-data name such as f128_r18_softmax_class70."""
    part = sd.rsplit("_", 1)[-1]
    if part not in PARTS:
        raise UserError(f"--SD {sd} must end in one of {' '.join(PARTS)} (the images whose features are meant)")
    return PARTS[part]


def artefact(feature_save: str, sd: str, kind: str) -> Path:
    """feature_save/<scenario>/<SD>_<kind>.npy; kind: feature, label, avg_feature, credible_ratio_90_feature."""
    return Path(feature_save) / part_of(sd)[0] / f"{sd}_{kind}.npy"


def credible_kind(share: float) -> str:
    """The name's middle part for a share in (0, 1]: 0.9 -> credible_ratio_90_feature (0.29 is 29, not 28)."""
    return f"credible_ratio_{round(100 * share, 4):g}_feature"


def save_array(path: Path, array: np.ndarray, origin: dict) -> None:
    """Write ``array`` and its origin beside, each whole or not at all."""
    with written_beside(path) as part, open(part, "wb") as file:
        np.save(file, array)
    save_origin(path, origin)       # after the array: a stop in between leaves a mismatch, never a false match


def save_origin(path: Path, origin: dict, part: Path | None = None) -> None:
    """Write the .json beside ``path``: what it was computed from, and the checksums of the file as it is now.

    part: the file that will get this name next.
    """
    write_text(path.with_suffix(".json"), json.dumps(origin | checksums(part or path), indent=1) + "\n")


def load_array(path: Path, made_by: str, whole: bool = False) -> np.ndarray:
    """The array of a .npy, memory-mapped: its rows are shared by all processes of a machine and read on demand.

    ``made_by``: the command that makes the file, for the message when it is missing or torn.  whole: compare the checksum
    of every byte (0.6 s per GB), not only that of 16 MiB.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; make it with: {made_by}")
    try:
        array = open_npy(path)
    except ValueError as error:
        raise UserError(f"{path} is not a whole .npy file ({error}); make it again with: {made_by}") from error
    check_whole(path, made_by, whole)
    return array


def check_whole(path: Path, made_by: str, whole: bool) -> None:
    """Refuse ``path`` when it is not the file whose checksums are kept beside it."""
    found = damage(path, load_origin(path), whole)
    if found:
        raise UserError(f"{path} is damaged, or not the file that {path.with_suffix('.json').name} beside it describes "
                        f"({found}); make it again with: {made_by}")


def load_origin(path: Path) -> dict:
    """The origin beside a .npy: model, records, images, dim, checksums; empty when there is none (a file made elsewhere)."""
    file = path.with_suffix(".json")
    try:
        origin = json.loads(file.read_text()) if file.is_file() else {}
        if not isinstance(origin, dict):
            raise ValueError(f"{type(origin).__name__} instead of names and values")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no description of {path.name} ({error}); make {path.name} again or remove "
                        f"{file.name}") from error
    return origin


def is_ours(path: Path) -> bool:
    """Whether the .json beside ``path`` is one of these; in other people's folders it may be anything."""
    try:
        return "sha256" in load_origin(path)
    except UserError:
        return False


def check_origin(path: Path, made_by: str, **expected) -> None:
    """Refuse ``path`` when its origin names another model or other records than ``expected``; None is not compared."""
    origin = load_origin(path)
    for what, value in expected.items():
        found = origin.get(what)
        if None not in (value, found) and found != value:
            raise UserError(f"{path} was computed from a different {what} ({what} fingerprint {short(found)}, expected "
                            f"{short(value)}), or that or {path.with_suffix('.json').name} has been damaged since; make it again "
                            f"with: {made_by}")


def load_features(feature_save: str, sd: str) -> tuple[np.ndarray, np.ndarray, Path]:
    """(features [N, d] memory-mapped, labels int64 [N], the features' file) of a source-and-data name; every byte checked."""
    command = f"python tools/get_feature/get_feature.py configs/OLD.py --SD {sd}"
    file, label_file = artefact(feature_save, sd, "feature"), artefact(feature_save, sd, "label")
    features, labels = (load_array(path, command, whole=True) for path in (file, label_file))
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or features.ndim != 2:
        raise UserError(f"{file} holds {describe(features)}, {label_file} {describe(labels)}; expected [images, d] and int "
                        f"[images]; make both again: {command}")
    if len(features) != len(labels):
        raise UserError(f"{file} has {len(features)} rows, {label_file} has {len(labels)}; make both again: {command}")
    return features, np.asarray(labels), file


def short(fingerprint) -> str:
    return str(fingerprint)[:12]


class OldFeatures:
    """Old features of the training images: ``old[index]`` gives unit rows, float32 [B, d], without gradient.

    One view per image, raw in the file.  Memory-mapped: at MS1MV3's size and 512 dimensions the file has
    10.6 GB, which eight processes share.
    """

    def __init__(self, path: Path, *, images: int, dim: int, records: str | None = None,
                 model: str | None = None):
        command = f"python tools/get_feature/get_feature.py configs/OLD.py --SD {sd_of(path)}"
        self.rows = load_array(path, command)
        if self.rows.ndim != 2 or self.rows.shape[1] != dim:
            raise UserError(f"{path} holds {describe(self.rows)}, expected [{images}, {dim}]: the new model's "
                            f"config.embedding_size must be the old one's")
        if len(self.rows) != images:
            raise UserError(f"{path} has {len(self.rows)} rows, the training set has {images} images; "
                            f"make it for this set with: {command}")
        check_origin(path, command, records=records, model=model)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Unit rows [B, d] on the CPU for index int64 [B] on the CPU; pinned where there is CUDA, so that the copy to
        the device does not wait for what runs there."""
        rows = F.normalize(torch.from_numpy(self.rows[index.numpy()]).float())
        return rows.pin_memory() if torch.cuda.is_available() else rows


def old_side(cfg, kind: str) -> dict:
    """Where the artefact config.<kind> is, and what it must belong to: arguments of the readers here.

    cfg.records and cfg.num_image describe the training set; where the old model's file exists, the artefact
    must come from that very model.
    """
    if cfg[kind] is None:
        raise UserError(f"config.{kind} is not set: this method needs it (BCT_Methods/scenarios.py fills it in)")
    model = None
    if cfg.old_model is not None and Path(cfg.old_model).is_file():
        model = fingerprint(load_state(cfg.old_model))
    return dict(path=locate(cfg[kind], cfg.feature_save), images=cfg.num_image, records=cfg.records, model=model)


def describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def sd_of(path: Path) -> str:
    """The --SD part of an artefact's file name."""
    return re.sub(r"_(feature|label|avg_feature|credible_ratio_[\d.]+_feature)$", "", path.stem)


def load_credible(path: Path, *, images: int, records: str | None = None, model: str | None = None) -> Tensor:
    """bool [images] on the CPU: True = this image's old feature may stand in for the new one."""
    command = f"python tools/get_feature/denoise_credible.py --T 0.9 --SD {sd_of(path)}"
    mask = load_array(path, command)
    if mask.dtype != bool or mask.shape != (images,):
        raise UserError(f"{path} holds {describe(mask)}, expected bool [{images}] (one mark per training image); "
                        f"make it again with: {command}")
    check_origin(path, command, records=records, model=model)
    return torch.from_numpy(np.array(mask))


def load_labels(path: Path, *, images: int, num_classes: int, records: str | None = None,
                model: str | None = None) -> np.ndarray:
    """int64 [images] in memory: the classes of the images of the features ``path``, from the file beside it."""
    command = f"python tools/get_feature/get_feature.py configs/OLD.py --SD {sd_of(path)}"
    path = path.with_name(f"{sd_of(path)}_label.npy")
    labels = np.array(load_array(path, command))
    if labels.shape != (images,) or labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(f"{path} holds {describe(labels)} with values from {labels.min()} to {labels.max()}, expected "
                        f"[{images}] classes from 0 to {num_classes} - 1; make it again with: {command}")
    check_origin(path, command, records=records, model=model)
    return labels.astype(np.int64)


def load_prototypes(path: Path, *, images: int, num_classes: int, dim: int, classes: slice,
                    records: str | None = None, model: str | None = None) -> Tensor:
    """float32 [classes, dim]: the mean old features of these classes out of num_classes, as unit rows."""
    command = f"python tools/get_feature/get_avg_feature.py --SD {sd_of(path)}"
    prototypes = load_array(path, command)
    if prototypes.shape != (num_classes, dim):
        raise UserError(f"{path} holds {describe(prototypes)}, expected [{num_classes}, {dim}] (classes and dimensions "
                        f"of the new model); make it for this set with: {command}, and leave "
                        f"config.num_classes unset")
    check_origin(path, command, images=images, records=records, model=model)
    return F.normalize(torch.from_numpy(np.array(prototypes[classes], np.float32)))


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
