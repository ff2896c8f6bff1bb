"""The versions of a comparison (named as in version_names.py): features of gallery and probes of each of their trainings."""

import argparse
from itertools import chain
from pathlib import Path

import numpy as np

from evaluation.embed import embeddings, outside_note
from evaluation.evaluation_set import Evaluation
from evaluation.feature_files import ChosenRows, check_kind, load_npy, matching_rows
from evaluation.maps import fit_maps
from evaluation.protocol import Images
from evaluation.templates import norms, template_features
from evaluation.trainings import pick
from evaluation.verification import Rows
from evaluation.version_names import Version, mapped_names, split_files
from utils.arrays import read_npz
from utils.errors import UserError

ROWS_PER_BLOCK = 16_384         # feature rows in memory at a time


class Features:
    """A version's features of both sides, rows of any length."""

    def __init__(self, gallery: Rows, query: Rows, norm: np.ndarray | None = None, about: dict | None = None):
        """gallery: [G, d]; query: [Q, d]; norm: [G], low if the model is uncertain; about: facts on the model for the report."""
        self.gallery, self.query, self.norm, self.about = gallery, query, norm, about or {}

    @property
    def dim(self) -> int:
        """d, the number of dimensions."""
        return self.gallery.shape[1]

    def mapped(self, w: np.ndarray) -> "Features":
        """The features times the linear map w [d, d_old]: template features in memory, feature files block by block."""
        if self.query is self.gallery and isinstance(self.gallery, np.ndarray):
            both = self.gallery @ w
            return Features(both, both)
        return Features(MappedRows(self.gallery, w), MappedRows(self.query, w))


class MappedRows:
    """``features @ w``: Rows that are multiplied when they are read."""

    def __init__(self, features: Rows, w: np.ndarray):
        self.features, self.w, self.shape = features, w, (len(features), w.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        return self.features[rows] @ self.w


class Versions:
    """All versions with their features.

    ``candidates`` are those that may replace ``old``: the new ones, the ``free`` ones (linear maps, fitted without training)
    and the ``paragon``.
    """

    def __init__(self, args: argparse.Namespace, evaluation: Evaluation):
        """args: the command line of compare.py.  UserError if names, files or dimensions are wrong."""
        old, new = Version.parse(args.old), [Version.parse(text) for text in args.new]
        paragon = [Version.parse(args.paragon)] if args.paragon else []
        self.old, self.paragon = old[0].name, paragon[0][0].name if paragon else None
        self.files = {trainings[0].name: trainings for trainings in (old, *new, *paragon)}
        if len(self.files) < 1 + len(new) + len(paragon):
            names = ", ".join(trainings[0].name for trainings in (old, *new, *paragon))
            raise UserError(f"expected a different name for each version, found {names}; rename one")
        self.check_trainings()
        files = self.feature_files(args)
        for version in chain.from_iterable(self.files.values()):    # a wrong network is reported before hours of embedding
            if evaluation.source is not None and not version.is_array:
                version.open(args)
        self.trainings = {name: [read_features(version, evaluation, args) for version in trainings]
                          for name, trainings in self.files.items()}
        for name, trainings in self.trainings.items():
            if len({features.dim for features in trainings}) > 1:
                raise UserError(f"the trainings of {name} have {', '.join(str(f.dim) for f in trainings)} dimensions; expected "
                                f"the same number: they are trainings of one version")
        self.free: list[str] = []
        self.map_errors: dict[str, float] = {}
        self.add_maps(files)
        self.candidates = [*(trainings[0].name for trainings in new), *self.free, *(p[0].name for p in paragon)]
        self.notes = [self.dimension_note(name, name in files) for name in self.candidates if not self.fits(name, self.old)]
        self.warnings = [features.about["note"] for features in chain.from_iterable(self.trainings.values())
                         if "note" in features.about]

    def check_trainings(self) -> None:
        """UserError if the numbers of trainings do not fit: the k-th training of a version belongs to one old model."""
        olds = len(self.files[self.old])
        for name, trainings in self.files.items():
            if len(trainings) % olds:
                raise UserError(f"{name} has {len(trainings)} trainings and {self.old} has {olds}; expected the same number of "
                                f"trainings for each old model, in the order of the old models")

    @property
    def features(self) -> dict[str, Features]:
        """{version: features of its first training}."""
        return {name: trainings[0] for name, trainings in self.trainings.items()}

    def dimension_note(self, name: str, has_maps: bool) -> str:
        """What follows for a candidate whose dimensions are not those of the old version."""
        note = f"{name} has {self.features[name].dim} dimensions, {self.old} has {self.features[self.old].dim}: "
        if has_maps:
            return note + f"its queries are compared through its maps, {' and '.join(mapped_names(name))}"
        return note + (f"its queries need a map to the old gallery; add --old-features FILE.npy and --new-features "
                       f"{name}=FILE.npy to fit one")

    def feature_files(self, args: argparse.Namespace) -> dict[str, list[Path]]:
        """{version: a file of features of the training images for each training}, from --new-features and --old-features.

        UserError if a name or a file is wrong, before hours of embedding.
        """
        if bool(args.old_features) != bool(args.new_features):
            raise UserError("the free baselines need both --old-features FILE.npy and --new-features NAME=FILE.npy, found one; "
                            "give the other, too")
        files: dict[str, list[Path]] = {}
        for text in args.new_features:
            name, _, listed = text.partition("=")
            if name not in self.files or name == self.old or name in files:
                expected = ", ".join(version for version in self.files if version != self.old)
                raise UserError(f"--new-features {text}: expected one of {expected} before the =, each once")
            for mapped in mapped_names(name):
                if mapped in self.files:
                    raise UserError(f"a version is called {mapped}, which is the name of a map of {name}; rename the version")
            files[name] = [Path(file) for file in split_files(listed)]
        if files:
            files[self.old] = [Path(file) for file in split_files(args.old_features)]
        for name, paths in files.items():
            if len(paths) != len(self.files[name]):
                raise UserError(f"{name} has {len(self.files[name])} trainings and {len(paths)} files of features of the "
                                f"training images; expected one for each training, in the same order")
            for file in paths:
                if not file.is_file():
                    raise UserError(f"no file {file}: expected features of the training images; make it with "
                                    f"tools/get_feature/get_feature.py")
        return files

    def add_maps(self, files: dict[str, list[Path]]) -> None:
        """Fit the maps of each training in ``files`` to its old model's features, and add the mapped versions."""
        for name in [name for name in files if name != self.old]:
            made: dict[str, list[Features]] = {mapped: [] for mapped in mapped_names(name)}
            errors: dict[str, list[float]] = {mapped: [] for mapped in made}
            for k, file in enumerate(files[name]):
                old_features = pick(files[self.old], k, len(files[name]))
                for mapped, (w, error) in zip(made, fit_maps(file, old_features).values(), strict=True):
                    if w.shape != (self.features[name].dim, self.features[self.old].dim):
                        raise UserError(f"{file} and {old_features} have {w.shape[0]} and {w.shape[1]} dimensions, expected "
                                        f"{self.features[name].dim} and {self.features[self.old].dim} as {name} and {self.old} "
                                        f"have; run tools/get_feature/get_feature.py with these models")
                    made[mapped].append(self.trainings[name][k].mapped(w))
                    errors[mapped].append(error)
            self.trainings |= made
            self.map_errors |= {mapped: max(found) for mapped, found in errors.items()}
            self.free += made

    def fits(self, query: str, gallery: str) -> bool:
        """Whether two versions have the same number of dimensions, so that queries of one can search the other's gallery."""
        return self.features[query].dim == self.features[gallery].dim


def read_features(version: Version, evaluation: Evaluation, args: argparse.Namespace) -> Features:
    """The version's features on this evaluation set.

    args: embeddings (their folder), batch_size, workers, force, and those of Version.open.
    """
    if evaluation.source is None:
        return plain_features(version, evaluation)
    views, about = image_embeddings(version, evaluation.source, args)
    check_finite(views, evaluation.source.names, version)
    features = template_features(views, evaluation.source)
    return Features(features, features, mean_norms(views, evaluation.source), about)


def image_embeddings(version: Version, images: Images, args: argparse.Namespace) -> tuple[list[np.ndarray], dict]:
    """(one or two views float32 [N, d]: images and mirror images; facts on the model for the report)."""
    path, suffix = Path(version.file), Path(version.file).suffix.lower()
    about: dict = {}
    if suffix == ".npz":
        views = kept_views(path)
    elif suffix == ".npy":
        array = load_npy(path)
        views = list(array if array.ndim == 3 else array[None])
    else:
        model = version.open(args)
        print(f"{version.name}:", flush=True)
        kept = embeddings(model, images, args.embeddings, args.batch_size, args.workers, args.force)
        views = list(kept)
        about = {"fingerprint": model.fingerprint, "image_size": model.image_size, "precision": model.precision}
        if note := outside_note(kept):
            about["note"] = f"{version.name}: {note}"
    for view in views:
        check_kind(view, version.file)
    if not 1 <= len(views) <= 2 or any(view.ndim != 2 or len(view) != len(images) for view in views):
        raise UserError(f"{version.file} holds {[f'{v.dtype} {list(v.shape)}' for v in views]}; expected embeddings of "
                        f"the {len(images)} images in the order of the landmark file, [N, d] or [2, N, d]")
    with np.errstate(over="ignore"):
        return [np.asarray(view, np.float32) for view in views], about


def kept_views(path: Path) -> list[np.ndarray]:
    """The new model's embeddings, two arrays [N, d], in a result of ijbc_eval.py -E; UserError if it has none."""
    try:
        arrays = read_npz(path, ("embs", "embs_f"))
        return [arrays["embs"], arrays["embs_f"]]
    except (ValueError, KeyError) as error:
        raise UserError(f"expected embeddings in {path}, found none ({error}); write it with ijbc_eval.py -E") from error


def check_finite(arrays: list[np.ndarray], names, version: Version) -> None:
    """UserError if a row has no direction (NaN, infinity, only zeros); it names the first five.  names: of the rows [N]."""
    for array in arrays:
        for start in range(0, len(array), ROWS_PER_BLOCK):
            with np.errstate(over="ignore", invalid="ignore"):      # a value too large for float32 becomes infinite
                norm = np.linalg.norm(array[start:start + ROWS_PER_BLOCK].astype(np.float32, copy=False), axis=1)
            unusable = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
            if len(unusable):
                rows = ", ".join(str(names[start + i]) for i in unusable[:5])
                if len(unusable) > 5:
                    rows += " and others"
                raise UserError(f"{version.name} ({version.file}) has NaN, infinity or only zeros for {rows}; embed these images "
                                f"again")


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
        check_finite([array], RowNames(side), version)
        order = matching_rows(folder, side, row_ids, len(array))
        sides.append(array if order is None else ChosenRows(array, order))
    if sides[0].shape[1] != sides[1].shape[1]:
        raise UserError(f"{folder}: gallery.npy has {sides[0].shape[1]} dimensions and probe.npy has {sides[1].shape[1]}; "
                        f"expected the same number: write both with the same model")
    return Features(sides[0], sides[1], row_norms(sides[0]))


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
