"""Features of gallery and probes of one training of a version: from a model, from embeddings, or from feature files."""

import argparse
from pathlib import Path

import numpy as np

from evaluation.embed import embeddings, outside_note
from evaluation.evaluation_set import Evaluation
from evaluation.feature_files import check_kind, load_npy, matching_rows
from evaluation.models import describe
from evaluation.protocol import Images
from evaluation.templates import norms, template_features
from evaluation.verification import Rows
from evaluation.version_names import Version
from utils.arrays import ChosenRows, read_npz
from utils.errors import UserError
from utils.origin import is_ours, load_origin, short

COMPARED = ("dim", "image_size", "input", "colours", "output")     # of models.describe, where two descriptions meet
NORM_QUANTILES = (0.001, 0.5, 0.999)    # by which a store sees whether its vectors are of this model
UNIT = 0.01                     # rows whose norm differs from 1 by less are normalised, in float16, too
ROWS_PER_BLOCK = 16_384         # feature rows in memory at a time


class Features:
    """A version's features of both sides, rows of any length.

    A mapped version has two views. ``gallery`` and ``query`` are what its model makes: entries that are re-embedded, and queries
    against them. ``on_old`` are the old entries and the queries as they are compared: of one space, for which one of the two is
    mapped. ``own`` are the gallery's images as queries against old entries. A model that was trained against old features of
    another dimension has compatible views: ``compatible``.
    """

    def __init__(self, gallery: Rows, query: Rows, norm: np.ndarray | None = None, about: dict | None = None,
                 on_old: tuple[Rows, Rows] | None = None, own: Rows | None = None):
        """gallery: [G, d]; query: [Q, d]; norm: [G], low if the model is uncertain; about: facts on the model for the report.

        on_old: (old entries [G, e], queries [Q, e]); None: the version has one view.  own: [G, e]; None: the gallery.
        """
        self.own = gallery if own is None else own
        self.gallery, self.query, self.norm, self.about, self.on_old = gallery, query, norm, about or {}, on_old
        self.views: list[np.ndarray] = []       # embeddings of the images, while maps are fitted
        self.compatible: dict[int, tuple[Rows, Rows]] = {}      # {d_o: gallery and query rows as views of d_o dimensions}

    @property
    def dim(self) -> int:
        """d, the number of dimensions."""
        return self.gallery.shape[1]

    def against(self, stored: "Features") -> tuple[Rows, Rows] | None:
        """(entries of ``stored``, queries of this version) as they are compared, if not as they are: through a map or a view."""
        if self.on_old is not None or self.dim == stored.dim:
            return self.on_old
        if stored.dim in self.compatible:
            return stored.gallery, self.compatible[stored.dim][1]
        return (stored.compatible[self.dim][0], self.query) if self.dim in stored.compatible else None

    def own_against(self, stored: "Features") -> Rows:
        """The gallery's images as queries of this version against entries of ``stored``."""
        compared = self.on_old is None and self.dim != stored.dim and stored.dim in self.compatible
        return self.compatible[stored.dim][0] if compared else self.own


def read_features(version: Version, evaluation: Evaluation, args: argparse.Namespace) -> Features:
    """The version's features on this evaluation set.

    args: embeddings (their folder), batch_size, workers, force, and those of Version.open.
    """
    if evaluation.source is None:
        return plain_features(version, evaluation)
    views, about = image_embeddings(version, evaluation.source, args)
    check_finite(views, evaluation.source.names, f"{version.name} ({version.file})")
    features = template_features(views, evaluation.source)
    out = Features(features, features, mean_norms(views, evaluation.source), about | norm_facts(norms(views[:1])))
    out.views = views
    return out


def image_embeddings(version: Version, images: Images, args: argparse.Namespace) -> tuple[list[np.ndarray], dict]:
    """(one or two views float32 [N, d]: images and mirror images; facts on the model for the report)."""
    path, suffix = Path(version.file), Path(version.file).suffix.lower()
    about: dict = {}
    if suffix == ".npz":
        views = kept_views(path)
    elif suffix == ".npy":
        array = load_npy(path)
        views = list(array if array.ndim == 3 else array[None])
        about = description_of(path) if is_ours(path) else {}
    else:
        model = version.open(args)
        print("\n".join([f"{version.name}:", *model.notes]), flush=True)
        kept = embeddings(model, images, args.embeddings, args.batch_size, args.workers, args.force)
        views = list(kept)
        about = {"fingerprint": model.fingerprint} | describe(model)
        if note := outside_note(kept):
            about["note"] = f"{version.name}: {note}"
    for view in views:
        check_kind(view, version.file)
    if not 1 <= len(views) <= 2 or any(view.ndim != 2 or len(view) != len(images) for view in views):
        raise UserError(f"{version.file} holds {[f'{v.dtype} {list(v.shape)}' for v in views]}; expected embeddings of "
                        f"the {len(images)} images in the order of the landmark file, [N, d] or [2, N, d]")
    with np.errstate(over="ignore"):
        return [np.asarray(view, np.float32) for view in views], about


def description_of(file: Path) -> dict:
    """What the .json next to an array says on the model that made it, as in Features.about; vectors of a service have none."""
    origin = load_origin(file)
    if "source" in origin:
        return {}
    return {"fingerprint" if key == "model" else key: origin[key] for key in ("model", *COMPARED) if key in origin}


def check_same_model(file: Path, name: str, about: dict) -> None:
    """UserError if the features in ``file`` come from another model than the version ``name``, or from another input of it."""
    if other := other_model(description_of(file), about):
        raise UserError(f"{file} was computed with another {other[0]} than {name} ({other[1]}); expected features by the same "
                        f"model with the same input: make them again with tools/get_feature")


def identity(about: dict) -> dict:
    """The part of ``about`` by which models are compared."""
    return {key: about[key] for key in ("fingerprint", *COMPARED) if key in about}


def other_model(made: dict, about: dict) -> tuple[str, str] | None:
    """(what differs and its value in ``made``, the value in ``about``) of two descriptions of a model; None if nothing does."""
    for key in ("fingerprint", *COMPARED):
        if key in made and key in about and made[key] != about[key]:
            what = "model (fingerprint " if key == "fingerprint" else f"{key.replace('_', ' ')} ("
            return f"{what}{short(made[key])})", short(about[key])
    return None


def kept_views(path: Path) -> list[np.ndarray]:
    """The new model's embeddings, two arrays [N, d], in a result of ijbc_eval.py -E; UserError if it has none."""
    try:
        arrays = read_npz(path, ("embs", "embs_f"))
        return [arrays["embs"], arrays["embs_f"]]
    except (ValueError, KeyError) as error:
        raise UserError(f"expected embeddings in {path}, found none ({error}); write it with ijbc_eval.py -E") from error


def check_finite(arrays: list[np.ndarray], names, source: str) -> None:
    """UserError if a row has no direction (NaN, infinity, only zeros); it names the first five.

    names: of the rows [N]; source: what holds them, for the error.
    """
    for array in arrays:
        for start in range(0, len(array), ROWS_PER_BLOCK):
            with np.errstate(over="ignore", invalid="ignore"):      # a value too large for float32 becomes infinite
                norm = np.linalg.norm(array[start:start + ROWS_PER_BLOCK].astype(np.float32, copy=False), axis=1)
            unusable = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
            if len(unusable):
                rows = ", ".join(str(names[start + i]) for i in unusable[:5])
                if len(unusable) > 5:
                    rows += " and others"
                raise UserError(f"{source} has NaN, infinity or only zeros for {rows}; embed these images again")


def mean_norms(views: list[np.ndarray], images: Images) -> np.ndarray:
    """Mean norm of the embeddings in each template, float [T]; low if the model is uncertain about the images."""
    count = len(images.template_ids)
    return np.bincount(images.templates, norms(views), count) / np.maximum(np.bincount(images.templates, minlength=count), 1)


def plain_features(version: Version, evaluation: Evaluation) -> Features:
    """Features in gallery.npy and probe.npy of the version's folder, memory-mapped; UserError if they do not fit the labels."""
    folder = Path(version.file)
    if not folder.is_dir():
        raise UserError(f"{version.name}={version.file} is not a folder; expected a folder of gallery.npy and probe.npy, because "
                        f"the data are feature files")
    sides = []
    for side, ids, row_ids in zip(("gallery", "probe"), evaluation.ids, evaluation.row_ids, strict=True):
        file = folder / f"{side}.npy"
        if not file.is_file():
            raise UserError(f"no file {file}: expected gallery.npy and probe.npy in the folder {folder}")
        array = load_npy(file)
        check_kind(array, file)
        if array.ndim != 2 or len(array) != len(ids) and row_ids is None:
            raise UserError(f"{file} holds {array.dtype} {list(array.shape)}; expected features [{len(ids)}, d], one row per "
                            f"label in {side}_label.npy")
        check_finite([array], RowNames(side), f"{version.name} ({version.file})")
        order = matching_rows(folder, side, row_ids, len(array))
        sides.append(array if order is None else ChosenRows(array, order))
    if sides[0].shape[1] != sides[1].shape[1]:
        raise UserError(f"{folder}: gallery.npy has {sides[0].shape[1]} dimensions and probe.npy has {sides[1].shape[1]}; "
                        f"expected the same number: write both with the same model")
    norm = row_norms(sides[0])
    return Features(sides[0], sides[1], norm, norm_facts(norm))


def norm_facts(norm: np.ndarray) -> dict:
    """What the norms [N] of a model's vectors say: their quantiles NORM_QUANTILES, and whether all are 1."""
    return {"norm": np.quantile(norm, NORM_QUANTILES).round(6).tolist(), "normalised": bool(np.abs(norm - 1).max() < UNIT)}


def row_norms(features: Rows) -> np.ndarray:
    """Norm of each row, float32 [N], block by block."""
    starts = range(0, len(features), ROWS_PER_BLOCK)
    return np.concatenate([norms([features[np.arange(start, min(start + ROWS_PER_BLOCK, len(features)))]]) for start in starts])


class RowNames:
    """Names of the rows of a feature file, made on demand."""

    def __init__(self, side: str):
        self.side = side

    def __getitem__(self, row) -> str:
        return f"{self.side} row {row}"
