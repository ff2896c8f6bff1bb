"""Whether the settings make sense, and what makes two trainings the same."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from engine.method import Method
from engine.model_files import classifier_shards
from losses import PartialFC
from old_model.names import sd_of
from utils.errors import UserError
from utils.files import quick_hash
from utils.paths import ROOT, locate

PLACES = {"dataset", "rec", "feature_save", "output", "old_model", "old_classifier", "workers"}


def settings_of(cfg, method_class: type[Method], head_class: type[PartialFC]) -> dict[str, str]:
    """What this run is, by name: every setting, and of files what is in them; their places differ from machine to machine."""
    return ({key: repr(value) for key, value in sorted(cfg.items()) if key not in PLACES}
            | {f"{name} (contents)": quick_hash(path)[:12] if path.is_file() else "no file"
               for name, path in files_of(cfg).items()}
            | {"method": method_class.__name__, "head": head_class.__name__})


def files_of(cfg) -> dict[str, Path]:
    """What a run may read beside its records, by name: what the old model left, and the verification sets."""
    files = {kind: locate(cfg[kind], cfg.feature_save) for kind in ("old_feature", "credible", "prototypes") if cfg[kind]}
    if "old_feature" in files:
        files["labels"] = files["old_feature"].with_name(f"{sd_of(files['old_feature'])}_label.npy")
    if cfg.old_classifier:
        shards = classifier_shards(locate(cfg.old_classifier, ROOT))
        files |= {f"old_classifier {rank}": path for rank, path in shards.items()}
    return files | {name: Path(cfg.dataset) / f"{name}.bin" for name in cfg.val_targets}


def check_settings(cfg) -> None:
    """Refuse at once what would fail, or mean nothing, hours later."""
    if cfg.dali:
        raise UserError("config.dali = True is not supported: set it to False; cv2 in loader processes decodes "
                        "112x112 JPEGs twice as fast as DALI on the CPU, and DALI loses the images' index")
    for sentence in wrong_numbers(cfg):
        raise UserError(sentence)
    if cfg.bad_records not in ("stop", "skip"):
        raise UserError(f'config.bad_records must be "stop" or "skip", found "{cfg.bad_records}"')
    if cfg.sample_rate < 1 and cfg.gradient_acc > 1:
        raise UserError(f"config.sample_rate = {cfg.sample_rate} samples classes for one batch, "
                        f"config.gradient_acc = {cfg.gradient_acc} adds up several: set one of them to 1")


WHOLE, NUMBER = (int,), (int, float)
# setting: (least, kind)
NUMBERS = {**dict.fromkeys(("batch_size", "num_epoch", "gradient_acc", "frequent", "verbose", "keep_checkpoints"), (1, WHOLE)),
           **dict.fromkeys(("workers", "seed", "save_every"), (0, WHOLE)), "warmup_epoch": (0, NUMBER), "timeout": (0.01, NUMBER)}


def wrong_numbers(cfg) -> Iterator[str]:
    """A sentence for each setting that is not the number it must be."""
    for key, (least, kind) in NUMBERS.items():
        if type(cfg[key]) not in kind or not cfg[key] >= least:
            yield f"config.{key} = {cfg[key]!r}: expected a {'whole ' * (kind == WHOLE)}number from {least} up"
    if type(cfg.sample_rate) not in NUMBER or not 0 < cfg.sample_rate <= 1:
        yield f"config.sample_rate = {cfg.sample_rate!r}: expected a share in (0, 1]"
    if not isinstance(cfg.val_targets, (list, tuple)):
        yield f"config.val_targets = {cfg.val_targets!r}: expected a list of names"


def make_repeatable(cfg) -> None:
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")     # else torch refuses cuBLAS's products
    torch.backends.cudnn.benchmark = not cfg.deterministic
    torch.use_deterministic_algorithms(cfg.deterministic)
    torch.manual_seed(cfg.seed)          # the same initial weights on all ranks
