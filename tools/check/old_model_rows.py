"""Rows on what the old model left for the new one, as far as the method reads it."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from backbones.weights import fingerprint, load_state
from engine.feature_training import check_old_rows
from engine.method import Method
from engine.several_old import new_method
from old_model.feature_rows import FeatureRows
from old_model.features import OldFeatures, classes_left_out, load_credible, load_prototypes, old_side
from old_model.names import sd_of
from old_model.order import MISPLACED, order_of_rows
from old_model.present import load_present, with_vector
from old_model.sides import numbered, old_dim, old_sides
from records.faces import CHUNK, FaceRecords
from records.facts import Facts
from tools.check.record_rows import spread
from tools.check.report import OK, WARNING, Report
from utils.errors import UserError
from utils.origin import check_whole, describe, load_array, load_origin
from utils.paths import locate
from utils.settings import Settings

# The settings that name an array of the old model: each array as the training reads it.
READERS: dict[str, Callable[[Settings, Facts], np.ndarray]] = {
    "old_feature": lambda cfg, data: OldFeatures(**old_side(cfg, data, "old_feature"), dim=old_dim(cfg)).rows,
    "credible": lambda cfg, data: load_credible(**old_side(cfg, data, "credible")).numpy(),
    "prototypes": lambda cfg, data: load_prototypes(**old_side(cfg, data, "prototypes"), num_classes=data.classes,
                                                    dim=old_dim(cfg), classes=slice(None)).numpy(),
}


def look_at_old_model(cfg: Settings, data: Facts, method_class: type[Method], every: bool, report: Report) -> Method | None:
    """Rows on the old models and on the arrays that the method looks up; the method.  Called within pretended_ranks.

    every: search all rows for NaN instead of a sample.
    """
    arrays, looked_up, sides = Report(), set[str](), old_sides(cfg)
    with tempfile.TemporaryDirectory() as folder:
        checked = []
        for k, side in enumerate(sides):
            name = partial(numbered, k=k, count=len(sides))
            if side.old_model is not None and not report.row(name("old model"), partial(look_at_model, Path(side.old_model))):
                side = side.replace(old_model=None)
            checked.append(noting(look_at_side(side, data, every, Path(folder) / str(k), name, arrays), looked_up))
        method = report.attempt("method", lambda: new_method(checked, method_class, data))
    for what, found, verdict in arrays.rows:
        if what.split()[0] in looked_up or method is None:
            report.add(what, found, verdict)
    return method


def look_at_side(cfg: Settings, data: Facts, every: bool, folder: Path, name: Callable[[str], str], arrays: Report) -> Settings:
    """Rows on the arrays of one old model; its settings, in which zeros in ``folder`` replace an array that is missing or wrong.

    So the method can be built, and shows what else it needs.
    """
    for kind in READERS:
        if cfg[kind] is not None and not arrays.row(name(kind), partial(look_at_array, kind, cfg, data, every)):
            cfg = cfg.replace(**{kind: str(write_zeros(folder / kind / Path(cfg[kind]).name, kind, cfg, data))})
    return cfg


def noting(cfg: Settings, looked_up: set[str]) -> Settings:
    """The settings; each name that is looked up in them is added to ``looked_up``."""
    class Noting(Settings):
        def __getitem__(self, name):
            looked_up.add(name)
            return super().__getitem__(name)
    return Noting(cfg)


def look_at_model(path: Path) -> tuple[str, str]:
    if not path.is_file():
        return f"no file {path}: the arrays cannot be compared with the model that they are of", WARNING
    return f"{path}: fingerprint {fingerprint(load_state(path))[:12]}", OK


def look_at_array(kind: str, cfg: Settings, data: Facts, every: bool) -> tuple[str, str]:
    """One array: read as the training reads it, then compared with its checksum, then searched for NaN."""
    array, path = READERS[kind](cfg, data), locate(cfg[kind], cfg.feature_save)
    note, present = "", None if kind != "old_feature" else load_present(path, len(array))
    if present is not None:
        note = f"; {np.count_nonzero(~present):,} images have no old vector and take part without the old side's term"
    if kind == "prototypes" and (empty := classes_left_out(path)):
        present = np.array(array.any(1))
        note = f"; {empty:,} classes have no old vector and are left out of the old side's term"
    check_whole(path, "the command that made it (README, step 2)", whole=True)
    for rows in np.array_split(np.arange(len(array)) if every else spread(len(array)), -(-len(array) // CHUNK)):
        if not np.isfinite(array[rows]).all():
            raise UserError(f"{path} holds NaN or infinity near row {rows[0]}; train the old model again with a lower "
                            f"config.lr, or extract its features again")
        if array.ndim == 2 and not (array[rows].any(1) | (present is not None and ~present[rows])).all():
            raise UserError(f"{path} holds a row of zeros near row {rows[0]}, which was never written; make it again (README, "
                            f"step 2)")
    if "sha256" not in load_origin(path):
        return f"{path}: {describe(array)}; no checksum next to it: it may be corrupt or of another model{note}", WARNING
    return f"{path}: {describe(array)}, checksum right{note}", OK


def look_at_order(cfg: Settings, data: Facts, faces: FaceRecords | FeatureRows) -> tuple[str, str]:
    """Whether row i of the old features can be of image i: by the labels of the record file or of the new features."""
    if isinstance(faces, FeatureRows):
        check_old_rows(cfg, faces)
    features, labels = READERS["old_feature"](cfg, data), faces.labels()
    path = locate(cfg.old_feature, cfg.feature_save)
    label_file = path.with_name(f"{sd_of(path)}_label.npy")
    if label_file.is_file():
        different = np.count_nonzero(load_array(label_file, "tools/get_feature/get_feature.py") != labels)
        if different:
            raise UserError(f"{label_file} differs from the labels of the record file in {different:,} of {len(labels):,} rows: "
                            f"the features are in another order than the images; extract them again with "
                            f"tools/get_feature/get_feature.py")
    some, own, _ = with_vector(features, labels, path)
    found = order_of_rows(some, own)
    return (f"{found.misplaced} {MISPLACED} ({found})", WARNING) if found.misplaced else (str(found), OK)


def write_zeros(path: Path, kind: str, cfg: Settings, data: Facts) -> Path:
    """An array of zeros that fits the training set, with labels next to it; sparse files, which take almost no room."""
    path.parent.mkdir(parents=True)
    shape, dtype = {"old_feature": ((data.images, old_dim(cfg)), np.float32), "credible": ((data.images,), bool),
                    "prototypes": ((data.classes, old_dim(cfg)), np.float32)}[kind]
    np.lib.format.open_memmap(path, "w+", dtype, shape)
    np.lib.format.open_memmap(path.with_name(f"{sd_of(path)}_label.npy"), "w+", np.int64, shape[:1])
    return path
