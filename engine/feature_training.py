"""Trainings on stored features: their rows against the old model's, and their result as a map."""

from pathlib import Path

import numpy as np

from backbones.feature_maps import FeatureMap
from engine.method import Method
from old_model.feature_rows import FeatureRows, feature_file, label_file
from utils.errors import UserError
from utils.origin import load_array
from utils.paths import locate
from utils.settings import Settings

COMPARED_ROWS = 10_000      # rows, evenly spread, in which the order of new and old features is compared


def check_old_rows(cfg: Settings, dataset: FeatureRows) -> None:
    """UserError if the old features cannot be of the same images in the same order as the rows of the training.

    Compared are the label files and, by the held-out error of ridge, at most COMPARED_ROWS rows.  An old feature file that is not
    there is left to the method that needs it.
    """
    if cfg.old_feature is None or not (path := locate(cfg.old_feature, cfg.feature_save)).is_file():
        return
    command = "python tools/get_feature/get_feature.py with both models on the same records"
    old = load_array(path, command)
    if old.ndim != 2 or len(old) != len(dataset):
        raise UserError(f"{path} has shape {list(old.shape)}, {dataset.path} {list(dataset.rows.shape)}; expected features of "
                        f"the same images: {command}")
    if path.samefile(dataset.path):
        raise UserError(f"config.rec and config.old_feature are the same file {path}; expected features of two models")
    labels = label_file(path)
    if labels.is_file() and (different := np.count_nonzero(load_array(labels, command) != dataset.classes)):
        raise UserError(f"{labels} differs from {label_file(dataset.path)} in {different:,} of {len(dataset):,} rows; expected "
                        f"features of the same images in the same order: {command}")
    check_related_rows(dataset, old, path)


def check_related_rows(dataset: FeatureRows, old: np.ndarray, path: Path) -> None:
    """UserError if row i of both is not the same image as far as ridge can see it; rows without a direction are left out."""
    from evaluation.map_pairs import MIN_IMAGES, Pairs  # not above: it imports scipy, which other trainings do not need
    from evaluation.maps import check_related

    rows = np.unique(np.linspace(0, len(old) - 1, min(len(old), COMPARED_ROWS)).astype(np.int64))
    norms = [np.linalg.norm(np.asarray(side[rows], np.float32), axis=1) for side in (dataset.rows, old)]
    rows = rows[np.all([np.isfinite(norm) & (norm > 0) for norm in norms], axis=0)]
    if len(rows) >= MIN_IMAGES:
        check_related(Pairs(dataset.rows, old, rows), f"{dataset.path} and {path}")


def write_map(folder: Path, backbone: FeatureMap, method: Method, images: int, models: dict[str, dict]) -> None:
    """Write the trained network as ``folder``/map.npz, new to old; its error on held-out rows is not known: NaN.

    models: of :func:`models_of_features`.
    """
    from evaluation.map_files import save_map
    from evaluation.map_forms import Map
    from evaluation.maps import BACKWARD, Fitted

    state = {name: value.detach().float().cpu().numpy() for name, value in backbone.state_dict().items()}
    hidden = (state["inner.weight"].T, state["inner.bias"], state["outer.weight"].T) if backbone.width else None
    mapping = Map(np.ascontiguousarray(state["linear.weight"].T), state["linear.bias"], hidden)
    kind = f"{type(method).__name__}-{'mlp' if backbone.width else 'linear'}"
    save_map(folder / "map.npz", Fitted(kind, mapping, "trained", np.nan, np.nan, images, np.nan), BACKWARD, models)


def models_of_features(cfg: Settings) -> dict[str, dict]:
    """{"new", "old": what is known about the model that made the features of a training on features}."""
    from evaluation.version_features import description_of

    files = {"new": feature_file(cfg), "old": locate(cfg.old_feature, cfg.feature_save)}
    return {side: description_of(file) for side, file in files.items()}


def has_map(method: Method) -> bool:
    """Whether a training with this method gives a map: plain training knows no old model, and makes a space of its own."""
    return type(method) is not Method
