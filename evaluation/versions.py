"""Versions of a model as they are named on the command line, and their features of gallery and probes.

NAME=FILE:NETWORK   .pt checkpoint of that network; .onnx and MXNet's PREFIX,EPOCH need no network. Words on its input can
                    follow, for example NAME=FILE.onnx,input=raw,bgr (inputs.py)
NAME=FILE.npy       embeddings of all images of the IJB folder, float [N, d] or, with mirror images, [2, N, d]
NAME=FILE.npz       result of ijbc_eval.py -E
NAME=FOLDER         if the data are feature files: folder of gallery.npy [G, d] and probe.npy [Q, d]
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.embed import embeddings
from evaluation.evaluation_set import Evaluation, load_npy
from evaluation.inputs import InputOptions, cut_options
from evaluation.map_files import fitted_files, load_map
from evaluation.map_forms import Map
from evaluation.mapped import mapped_name, mapped_side
from evaluation.maps import BACKWARD, FORWARD, fit_maps
from evaluation.models import EmbeddingModel, describe, open_model
from evaluation.protocol import Images
from evaluation.templates import norms, template_features
from evaluation.verification import Rows
from utils.arrays import read_npz
from utils.errors import UserError
from utils.origin import is_ours, load_origin, short

COMPARED = ("dim", "image_size", "input", "colours", "output")     # of models.describe, where two descriptions meet
ROWS_PER_BLOCK = 16_384         # feature rows in memory at a time


@dataclass(frozen=True)
class Version:
    """A version as it is named on the command line."""

    name: str
    file: str                   # or folder, or MXNet's PREFIX,EPOCH
    network: str | None         # of a .pt file
    words: str = ""             # on its input, for InputOptions.parse

    @classmethod
    def parse(cls, text: str) -> "Version":
        """The version that NAME=FILE[:NETWORK][,WORD...] names; UserError if ``text`` has another form."""
        name, equals, rest = text.partition("=")
        if not equals or not name or not rest:
            raise UserError(f"expected NAME=FILE or NAME=FILE:NETWORK, found '{text}'")
        if "/" in name or "\\" in name:
            raise UserError(f"expected a name without a slash in front of the =, because it becomes part of file names; found "
                            f"'{name}'")
        rest, words = (rest, "") if Path(rest).exists() else cut_options(rest)
        InputOptions.parse(words, text)                 # a wrong word is reported before hours of embedding
        file, colon, network = rest.rpartition(":")
        version = cls(name, file, network, words) if colon and not Path(rest).exists() else cls(name, rest, None, words)
        if words and (version.is_array or Path(version.file).is_dir()):
            raise UserError(f"{text}: {version.file} holds embeddings, which have no input; leave out ,{words}")
        return version

    @property
    def is_array(self) -> bool:
        """Whether the file holds embeddings."""
        return Path(self.file).suffix.lower() in (".npy", ".npz")

    def open(self, args: argparse.Namespace) -> EmbeddingModel:
        """The model in the file.  args: devices, fp16, pixel_scale."""
        if Path(self.file).suffix.lower() in (".pt", ".pth") and self.network is None:
            raise UserError(f"expected the network of {self.file} after a colon, found none; give "
                            f"{self.name}={self.file}:NETWORK, for example :r50")
        options = InputOptions.parse(self.words, f"{self.name}={self.file}", args.pixel_scale)
        return open_model(self.file, self.network or "", args.devices, args.fp16, options)


class Features:
    """A version's features of both sides, rows of any length.

    A mapped version has two views. ``gallery`` and ``query`` are what its model makes: entries that are re-embedded, and queries
    against them. ``on_old`` are the old entries and the queries as they are compared: of one space, for which one of the two is
    mapped.
    """

    def __init__(self, gallery: Rows, query: Rows, norm: np.ndarray | None = None, about: dict | None = None,
                 on_old: tuple[Rows, Rows] | None = None):
        """gallery: [G, d]; query: [Q, d]; norm: [G], low if the model is uncertain; about: facts on the model for the report.

        on_old: (old entries [G, e], queries [Q, e]); None: the version has one view.
        """
        self.gallery, self.query, self.norm, self.about, self.on_old = gallery, query, norm, about or {}, on_old
        self.views: list[np.ndarray] = []       # embeddings of the images, while maps are fitted

    @property
    def dim(self) -> int:
        """d, the number of dimensions."""
        return self.gallery.shape[1]


class Versions:
    """All versions with their features.

    ``candidates`` are those that may replace ``old``: the new ones, the ``free`` ones (new models with a map, fitted without
    training a network) and the ``paragon``.
    """

    def __init__(self, args: argparse.Namespace, evaluation: Evaluation):
        """args: the command line of compare.py.  UserError if names, files or dimensions are wrong."""
        old, new = Version.parse(args.old), [Version.parse(text) for text in args.new]
        paragon = [Version.parse(args.paragon)] if args.paragon else []
        self.old, self.paragon = old.name, paragon[0].name if paragon else None
        self.files = {version.name: version for version in (old, *new, *paragon)}
        if len(self.files) < 1 + len(new) + len(paragon):
            names = ", ".join(version.name for version in (old, *new, *paragon))
            raise UserError(f"expected a different name for each version, found {names}; rename one")
        self.kinds = tuple(dict.fromkeys(args.maps))
        files, maps = self.feature_files(args), fitted_files(args.fitted, set(self.files), self.old)
        for version in self.files.values():         # a wrong network is reported before hours of embedding
            if evaluation.source is not None and not version.is_array:
                version.open(args)
        self.features = {name: read_features(version, evaluation, args) for name, version in self.files.items()}
        for name, file in [(self.old, args.old_features), *files.items()] if files else []:
            check_same_model(file, name, self.features[name].about)
        self.free: list[str] = []
        self.map_errors: dict[str, float] = {}
        for name, file in files.items():
            for direction in [BACKWARD, FORWARD][:1 + args.forward]:
                for kind, fitted in fit_maps(file, args.old_features, self.kinds, direction).items():
                    mapped = mapped_name(name, kind, direction)
                    self.add_map(name, mapped, (fitted.map, direction, fitted.error), file, evaluation)
        for mapped, (name, file) in maps.items():
            self.add_map(name, mapped, load_map(file), file, evaluation)
        for features in self.features.values():
            features.views = []
        self.candidates = [*(v.name for v in new), *self.free, *(v.name for v in paragon)]
        self.notes = [self.dimension_note(name) for name in self.candidates if not self.fits(name, self.old)]

    def dimension_note(self, name: str) -> str:
        """What follows for a candidate whose dimensions are not those of the old version."""
        note = f"{name} has {self.features[name].dim} dimensions, {self.old} has {self.features[self.old].dim}: "
        mapped = [free for free in self.free if self.features[free].gallery is self.features[name].gallery]
        if mapped:
            return note + f"its queries are compared through its maps, {' and '.join(mapped)}"
        return note + (f"its queries need a map to the old gallery; add --old-features FILE.npy and --new-features "
                       f"{name}=FILE.npy to fit one")

    def feature_files(self, args: argparse.Namespace) -> dict[str, Path]:
        """{version: file of its features of the training images}, from --new-features.

        UserError if a name or a file is wrong, before hours of embedding.
        """
        if bool(args.old_features) != bool(args.new_features):
            raise UserError("the free baselines need both --old-features FILE.npy and --new-features NAME=FILE.npy, found one; "
                            "give the other, too")
        files = {}
        for text in args.new_features:
            name, _, file = text.partition("=")
            if name not in self.files or name == self.old or name in files:
                expected = ", ".join(version for version in self.files if version != self.old)
                raise UserError(f"--new-features {text}: expected one of {expected} before the =, each once")
            for mapped in [mapped_name(name, kind, direction) for kind in self.kinds for direction in (BACKWARD, FORWARD)]:
                if mapped in self.files:
                    raise UserError(f"a version is called {mapped}, which is the name of a map of {name}; rename the version")
            files[name] = Path(file)
        for file in [*files.values(), *([args.old_features] if files else [])]:
            if not file.is_file():
                raise UserError(f"no file {file}: expected features of the training images; make it with "
                                f"tools/get_feature/get_feature.py")
        return files

    def add_map(self, name: str, mapped: str, found: tuple[Map, str, float], file: Path, evaluation: Evaluation) -> None:
        """Add the version ``mapped``: the model of ``name`` and a map.  found: map, direction and held-out error."""
        mapping, direction, error = found
        if mapped in self.features:
            raise UserError(f"two maps are called {mapped}; rename the file of one")
        new, old = self.features[name], self.features[self.old]
        expected = (new.dim, old.dim) if direction == BACKWARD else (old.dim, new.dim)
        if mapping.dims != expected:
            raise UserError(f"the map of {file} goes from {mapping.dims[0]} to {mapping.dims[1]} dimensions ({direction}), "
                            f"expected {expected[0]} to {expected[1]} as {name} and {self.old} have; fit it on features of these "
                            f"models")
        on_old: tuple[Rows, Rows]
        if direction == BACKWARD:
            on_old = old.gallery, mapped_side(new.views, new.query, mapping, evaluation.source)
        else:
            on_old = mapped_side(old.views, old.gallery, mapping, evaluation.source), new.query
        self.features[mapped] = Features(new.gallery, new.query, about=new.about, on_old=on_old)
        self.map_errors[mapped] = error
        self.free.append(mapped)

    def sides(self, query: str, gallery: str) -> tuple[Rows, Rows] | None:
        """(gallery rows, query rows) with which queries of one version search the other's gallery; None: they cannot.

        The entries of a mapped version are those of its model, so only its own queries search them.
        """
        asking, stored = self.features[query], self.features[gallery]
        if gallery == self.old and asking.on_old:
            return asking.on_old
        alone = query != gallery and (asking.on_old or stored.on_old)
        return None if alone or asking.dim != stored.dim else (stored.gallery, asking.query)

    def fits(self, query: str, gallery: str) -> bool:
        """Whether queries of one version can search the other's gallery."""
        return self.sides(query, gallery) is not None


def read_features(version: Version, evaluation: Evaluation, args: argparse.Namespace) -> Features:
    """The version's features on this evaluation set.

    args: embeddings (their folder), batch_size, workers, force, and those of Version.open.
    """
    if evaluation.source is None:
        return plain_features(version, evaluation)
    views, about = image_embeddings(version, evaluation.source, args)
    check_finite(views, evaluation.source.names, version)
    features = template_features(views, evaluation.source)
    out = Features(features, features, mean_norms(views, evaluation.source), about)
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
        views = list(embeddings(model, images, args.embeddings, args.batch_size, args.workers, args.force))
        about = {"fingerprint": model.fingerprint} | describe(model)
    if not 1 <= len(views) <= 2 or any(view.ndim != 2 or view.dtype.kind != "f" or len(view) != len(images) for view in views):
        raise UserError(f"{version.file} holds {[f'{v.dtype} {list(v.shape)}' for v in views]}; expected float embeddings of "
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
    made = description_of(file)
    for key in ("fingerprint", *COMPARED):
        if key in made and key in about and made[key] != about[key]:
            what = "model (fingerprint " if key == "fingerprint" else f"{key.replace('_', ' ')} ("
            raise UserError(f"{file} was computed with another {what}{short(made[key])}) than {name} ({short(about[key])}); "
                            f"expected features by the same model with the same input: make them again with tools/get_feature")


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
    return np.bincount(images.templates, norms(views), count) / np.bincount(images.templates, minlength=count)


def plain_features(version: Version, evaluation: Evaluation) -> Features:
    """Features in gallery.npy and probe.npy of the version's folder, memory-mapped; UserError if they do not fit the labels."""
    folder = Path(version.file)
    if not folder.is_dir():
        raise UserError(f"{version.name}={version.file} is not a folder; expected a folder of gallery.npy and probe.npy, because "
                        f"the data are feature files")
    sides = []
    for side, ids in zip(("gallery", "probe"), evaluation.ids, strict=True):
        file = folder / f"{side}.npy"
        if not file.is_file():
            raise UserError(f"no file {file}: expected gallery.npy and probe.npy in the folder {folder}")
        array = load_npy(file)
        if array.ndim != 2 or array.dtype.kind != "f" or len(array) != len(ids):
            raise UserError(f"{file} holds {array.dtype} {list(array.shape)}; expected float features [{len(ids)}, d], one row "
                            f"per label in {side}_label.npy")
        check_finite([array], RowNames(side), version)
        sides.append(array)
    if sides[0].shape[1] != sides[1].shape[1]:
        raise UserError(f"{folder}: gallery.npy has {sides[0].shape[1]} dimensions and probe.npy has {sides[1].shape[1]}; "
                        f"expected the same number: write both with the same model")
    return Features(sides[0], sides[1], norms([sides[0]]))


class RowNames:
    """Names of the rows of a feature file, made on demand."""

    def __init__(self, side: str):
        self.side = side

    def __getitem__(self, row) -> str:
        return f"{self.side} row {row}"
