"""Versions of a model: what the user names, and its features of gallery and probes.

NAME=FILE:NETWORK   a .pt checkpoint of that network; .onnx and MXNet's PREFIX,EPOCH need no network
NAME=FILE.npy       embeddings of all images of the IJB folder, float [N, d] or, with mirror images, [2, N, d]
NAME=FILE.npz       a result of ijbc_eval.py -E
NAME=FOLDER         for feature files: gallery.npy [G, d] and probe.npy [Q, d] in it
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.embed import embeddings
from evaluation.evaluation_set import Evaluation, load_npy
from evaluation.maps import fit_maps
from evaluation.models import EmbeddingModel, open_model
from evaluation.protocol import Images
from evaluation.templates import ROWS, norms, template_features
from evaluation.verification import Rows
from utils.arrays import read_npz
from utils.errors import UserError


@dataclass(frozen=True)
class Version:
    """A version as named on the command line."""

    name: str
    file: str
    network: str | None

    @classmethod
    def parse(cls, text: str) -> "Version":
        """From NAME=FILE[:NETWORK]."""
        name, equals, rest = text.partition("=")
        if not equals or not name or not rest:
            raise UserError(f"expected NAME=FILE or NAME=FILE:NETWORK, found '{text}'")
        if "/" in name or "\\" in name:
            raise UserError(f"the name in front of = becomes part of file names and may hold no slash, found '{name}'")
        file, colon, network = rest.rpartition(":")
        return cls(name, file, network) if colon and not Path(rest).exists() else cls(name, rest, None)

    @property
    def is_array(self) -> bool:
        return Path(self.file).suffix.lower() in (".npy", ".npz")

    def open(self, args: argparse.Namespace) -> EmbeddingModel:
        """The model in the file."""
        if Path(self.file).suffix.lower() in (".pt", ".pth") and self.network is None:
            raise UserError(f"{self.file}: which network is it? give {self.name}={self.file}:NETWORK, for example :r50")
        return open_model(self.file, self.network or "", args.devices, args.fp16, args.pixel_scale)


class Features:
    """A version's features: ``gallery`` and ``query`` rows of any length, and what is known about them."""

    def __init__(self, gallery: Rows, query: Rows, norm: np.ndarray | None = None, about: dict | None = None):
        self.gallery, self.query, self.norm, self.about = gallery, query, norm, about or {}

    @property
    def dim(self) -> int:
        return self.gallery.shape[1]

    def mapped(self, w: np.ndarray) -> "Features":
        """Both sides through the linear map w [d, d_old]; small enough to be in memory, or mapped block by block."""
        if self.query is self.gallery and isinstance(self.gallery, np.ndarray):
            both = self.gallery @ w
            return Features(both, both)
        return Features(MappedRows(self.gallery, w), MappedRows(self.query, w))


class MappedRows:
    """``features @ w``, row by row on demand: looks like the array that it stands for."""

    def __init__(self, features: Rows, w: np.ndarray):
        self.features, self.w, self.shape = features, w, (len(features), w.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        return self.features[rows] @ self.w


class Versions:
    """All versions with their features: ``candidates`` may replace ``old``; ``free`` ones are maps that nothing trained."""

    def __init__(self, args: argparse.Namespace, evaluation: Evaluation):
        old, new = Version.parse(args.old), [Version.parse(text) for text in args.new]
        paragon = [Version.parse(args.paragon)] if args.paragon else []
        self.old, self.paragon = old.name, paragon[0].name if paragon else None
        self.files = {version.name: version for version in (old, *new, *paragon)}
        if len(self.files) < 1 + len(new) + len(paragon):
            raise UserError(f"two versions have the same name among {', '.join(v.name for v in (old, *new, *paragon))}")
        files = self.feature_files(args)
        for version in self.files.values():         # a wrong network is told before hours of embedding the others
            if evaluation.source is not None and not version.is_array:
                version.open(args)
        self.features = {name: read_features(version, evaluation, args) for name, version in self.files.items()}
        self.free: list[str] = []
        self.map_errors: dict[str, float] = {}
        self.add_maps(files, args.old_features)
        self.candidates = [*(v.name for v in new), *self.free, *(v.name for v in paragon)]
        self.notes = [f"{name} has {self.features[name].dim} dimensions, {self.old} has {self.features[self.old].dim}: "
                      + (f"its queries are compared through its maps, {' and '.join(mapped_names(name))}" if name in files else
                         f"without a map its queries do not fit the old gallery; --old-features and --new-features "
                         f"{name}=FILE.npy fit one") for name in self.candidates if not self.fits(name, self.old)]

    def feature_files(self, args: argparse.Namespace) -> dict[str, Path]:
        """{version: features of the training images} of --new-features; refused before hours of embedding."""
        if bool(args.old_features) != bool(args.new_features):
            raise UserError("the free baselines need both --old-features FILE.npy and --new-features NAME=FILE.npy")
        files = {}
        for text in args.new_features:
            name, _, file = text.partition("=")
            if name not in self.files or name == self.old or name in files:
                raise UserError(f"--new-features {text}: expected one of {', '.join(n for n in self.files if n != self.old)} "
                                f"before the =, each once")
            for mapped in mapped_names(name):
                if mapped in self.files:
                    raise UserError(f"a version is called {mapped}, which is the name of a map of {name}; give it another one")
            files[name] = Path(file)
        for file in [*files.values(), *([args.old_features] if files else [])]:
            if not file.is_file():
                raise UserError(f"no file {file}; make it with tools/get_feature/get_feature.py")
        return files

    def add_maps(self, files: dict[str, Path], old_features: Path) -> None:
        for name, file in files.items():
            for mapped, (w, error) in zip(mapped_names(name), fit_maps(file, old_features).values(), strict=True):
                if w.shape != (self.features[name].dim, self.features[self.old].dim):
                    raise UserError(f"{file} and {old_features} have {w.shape[0]} and {w.shape[1]} dimensions, {name} and "
                                    f"{self.old} have {self.features[name].dim} and {self.features[self.old].dim}")
                self.features[mapped] = self.features[name].mapped(w)
                self.map_errors[mapped] = error
                self.free.append(mapped)

    def fits(self, query: str, gallery: str) -> bool:
        return self.features[query].dim == self.features[gallery].dim


def mapped_names(name: str) -> list[str]:
    return [f"{name}+{kind}" for kind in ("Procrustes", "ridge")]


def read_features(version: Version, evaluation: Evaluation, args: argparse.Namespace) -> Features:
    """The version's features on this evaluation; args: folder of kept embeddings, devices, batch_size, workers ..."""
    if evaluation.source is None:
        return plain_features(version, evaluation)
    views, about = image_embeddings(version, evaluation.source, args)
    check_finite(views, evaluation.source.names, version)
    features = template_features(views, evaluation.source)
    return Features(features, features, mean_norms(views, evaluation.source), about)


def image_embeddings(version: Version, images: Images, args: argparse.Namespace) -> tuple[list[np.ndarray], dict]:
    """(the one or two views [N, d] of the images, what is known of the model)."""
    path, kind = Path(version.file), Path(version.file).suffix.lower()
    about: dict = {}
    if kind == ".npz":
        views = kept_views(path)
    elif kind == ".npy":
        array = load_npy(path)
        views = list(array if array.ndim == 3 else array[None])
    else:
        model = version.open(args)
        print(f"{version.name}:", flush=True)
        views = list(embeddings(model, images, args.embeddings, args.batch_size, args.workers, args.force))
        about = {"fingerprint": model.fingerprint, "image_size": model.image_size, "precision": model.precision}
    if not 1 <= len(views) <= 2 or any(view.ndim != 2 or view.dtype.kind != "f" or len(view) != len(images) for view in views):
        raise UserError(f"{version.file} holds {[f'{v.dtype} {list(v.shape)}' for v in views]}; expected float embeddings of "
                        f"the {len(images)} images in the order of the landmark file, [N, d] or [2, N, d]")
    with np.errstate(over="ignore"):
        return [np.asarray(view, np.float32) for view in views], about


def kept_views(path: Path) -> list[np.ndarray]:
    """The new model's embeddings in a result of ijbc_eval.py -E."""
    try:
        arrays = read_npz(path, ("embs", "embs_f"))
        return [arrays["embs"], arrays["embs_f"]]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} holds no embeddings ({error}); write it with ijbc_eval.py -E") from error


def check_finite(rows_of: list[np.ndarray], names, version: Version) -> None:
    """Refuse features without a direction (NaN, infinity, all zeros), with the names of the first images."""
    for array in rows_of:
        for start in range(0, len(array), ROWS):
            with np.errstate(over="ignore", invalid="ignore"):      # what is too large for float32 becomes infinite
                norm = np.linalg.norm(array[start:start + ROWS].astype(np.float32, copy=False), axis=1)
            bad = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
            if len(bad):
                shown = ", ".join(str(names[start + i]) for i in bad[:5])
                raise UserError(f"{version.name} ({version.file}) has NaN, infinity or only zeros for {shown}"
                                f"{' and others' * (len(bad) > 5)}; embed these images again")


def mean_norms(views: list[np.ndarray], images: Images) -> np.ndarray:
    """Mean norm of the images' features in each template, float [T]: low for images that the model is not sure about."""
    count = len(images.template_ids)
    return np.bincount(images.templates, norms(views), count) / np.bincount(images.templates, minlength=count)


def plain_features(version: Version, evaluation: Evaluation) -> Features:
    """gallery.npy and probe.npy of a folder, memory-mapped."""
    folder = Path(version.file)
    if not folder.is_dir():
        raise UserError(f"{version.name}={version.file}: expected a folder of gallery.npy and probe.npy, because the data are "
                        f"feature files")
    sides = []
    for side, ids in zip(("gallery", "probe"), evaluation.ids, strict=True):
        file = folder / f"{side}.npy"
        if not file.is_file():
            raise UserError(f"no file {file}: expected the folder {folder} to hold gallery.npy and probe.npy")
        array = load_npy(file)
        if array.ndim != 2 or array.dtype.kind != "f" or len(array) != len(ids):
            raise UserError(f"{file} holds {array.dtype} {list(array.shape)}; expected float features [{len(ids)}, d], a row "
                            f"for each label in {side}_label.npy")
        check_finite([array], RowNames(side), version)
        sides.append(array)
    if sides[0].shape[1] != sides[1].shape[1]:
        raise UserError(f"{folder}: gallery.npy has {sides[0].shape[1]} dimensions, probe.npy {sides[1].shape[1]}")
    return Features(sides[0], sides[1], norms([sides[0]]))


class RowNames:
    """Names of the rows of a feature file, made on demand."""

    def __init__(self, side: str):
        self.side = side

    def __getitem__(self, row) -> str:
        return f"{self.side} row {row}"
