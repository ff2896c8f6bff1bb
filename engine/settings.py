"""Settings that do not go together, and what makes two trainings the same."""

import os
from pathlib import Path

import torch

from backbones import builder
from engine.method import Method
from engine.model_files import classifier_shards
from losses import PartialFC
from old_model.feature_rows import feature_file, is_of_features, label_file
from old_model.names import sd_of
from old_model.sides import numbered, old_dim, old_sides
from records.facts import Facts
from utils.errors import UserError
from utils.files import quick_hash
from utils.paths import ROOT, locate
from utils.settings import Settings

PLACES = {"dataset", "rec", "feature_save", "output", "old_model", "old_classifier", "workers", "init"}


def check_settings(cfg: Settings) -> None:
    """Refuse settings that are right one by one and cannot work together.  Raises :class:`UserError`."""
    if cfg.dali:
        raise UserError("config.dali = True is not supported: set it to False; cv2 in loader processes decodes "
                        "112x112 JPEGs twice as fast as DALI on the CPU, and DALI loses the images' index")
    sides = old_sides(cfg)
    if is_of_features(cfg):
        refuse_image_settings(cfg)
        if len(sides) > 1 or old_dim(cfg) != cfg.embedding_size:
            raise UserError(f"config.network = {cfg.network} makes a map to one old model: set config.embedding_size to its "
                            f"dimensions, and name one old model (found {len(sides)}, embedding_size = {cfg.embedding_size}, "
                            f"old_dim = {cfg.old_dim})")
    else:
        builder(cfg.network)
        if cfg.rec.endswith(".npy"):
            raise UserError(f"config.rec = {cfg.rec} are stored features, and config.network = {cfg.network} needs images; set "
                            f"network=linear or network=mlp, or give a record file")
    if cfg.margin_list[0] != 1:
        raise UserError(f"config.margin_list = {cfg.margin_list}: expected m1 = 1 (no multiplicative margin); use m2 (ArcFace) "
                        f"or m3 (CosFace)")
    if cfg.sample_rate < 1 and cfg.gradient_acc > 1:
        raise UserError(f"config.sample_rate = {cfg.sample_rate} samples classes for one batch, "
                        f"config.gradient_acc = {cfg.gradient_acc} adds up several: set one of them to 1")
    if cfg.warmup_epoch > cfg.num_epoch:
        raise UserError(f"config.warmup_epoch = {cfg.warmup_epoch}: expected at most config.num_epoch = {cfg.num_epoch} epochs")


def refuse_image_settings(cfg: Settings) -> None:
    """UserError for a setting that only a training on images has, if it would be ignored."""
    if cfg.dropout or cfg.bad_records != "stop":
        raise UserError(f"config.network = {cfg.network} is trained on stored features: set dropout=0 and bad_records=stop, "
                        f"which only trainings on images have (found {cfg.dropout:g} and {cfg.bad_records})")
    if cfg.rec == "synthetic":
        raise UserError(f"config.rec = synthetic are random images, and config.network = {cfg.network} is trained on stored "
                        f"features; give rec=NAME_feature.npy")


def targets_of(cfg: Settings) -> list[str]:
    """Names of the verification sets; none for a training on features, because they are images."""
    return [] if is_of_features(cfg) else cfg.val_targets


def settings_of(cfg: Settings, data: Facts, method_class: type[Method], head_class: type[PartialFC]) -> dict[str, str]:
    """What this run is, by name: every setting, what the data say, and checksums of the files that it reads.

    Places are left out: they differ from machine to machine.
    """
    known = cfg | {"num_classes": data.classes, "num_image": data.images, "records": data.fingerprint}
    return ({key: repr(value) for key, value in sorted(known.items()) if key not in PLACES}
            | {"init (contents)": "random"}
            | {f"{name} (contents)": quick_hash(path)[:12] if path.is_file() else "no file"
               for name, path in files_of(cfg).items()}
            | {"method": method_class.__name__, "head": head_class.__name__})


def files_of(cfg: Settings) -> dict[str, Path]:
    """Files that a run may read in addition to its records, by name: what the old model left, config.init, the features that it
    is trained on, and the verification sets."""
    sides = old_sides(cfg)
    files: dict[str, Path] = {}
    for k, side in enumerate(sides):
        files |= {numbered(name, k, len(sides)): path for name, path in files_of_side(side).items()}
    if cfg.init:
        files["init"] = Path(cfg.init)
    if is_of_features(cfg):
        files["rec"] = feature_file(cfg)
        files["rec labels"] = label_file(files["rec"])
    return files | {name: Path(cfg.dataset) / f"{name}.bin" for name in targets_of(cfg)}


def files_of_side(cfg: Settings) -> dict[str, Path]:
    """What one old model left, by name."""
    files = {kind: locate(cfg[kind], cfg.feature_save) for kind in ("old_feature", "credible", "prototypes") if cfg[kind]}
    if "old_feature" in files:
        files["labels"] = files["old_feature"].with_name(f"{sd_of(files['old_feature'])}_label.npy")
    if cfg.old_classifier:
        shards = classifier_shards(locate(cfg.old_classifier, ROOT))
        files |= {f"old_classifier {rank}": path for rank, path in shards.items()}
    return files


def make_repeatable(cfg: Settings) -> None:
    """Seed torch and, with config.deterministic, choose algorithms that give the same bits again."""
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")     # else torch refuses cuBLAS's products
    torch.backends.cudnn.benchmark = not cfg.deterministic
    torch.use_deterministic_algorithms(cfg.deterministic)
    torch.manual_seed(cfg.seed)          # the same initial weights on all ranks
