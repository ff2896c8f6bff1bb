"""The versions of a comparison (named as in version_names.py): features of each of their trainings, and maps between them."""

import argparse
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from evaluation.evaluation_set import Evaluation
from evaluation.map_files import fitted_files, load_map, models_of
from evaluation.map_forms import Map
from evaluation.mapped import mapped_name, mapped_side
from evaluation.maps import BACKWARD, FORWARD, Fitted, fit_maps
from evaluation.trainings import pick
from evaluation.verification import Rows, unit_rows
from evaluation.version_features import Features, check_same_model, other_model, read_features
from evaluation.version_names import Version, split_files
from evaluation.view_files import find_view, folder_of, view_file
from utils.errors import UserError

LOOKED_AT = 100         # rows of each side by which the same model is found
ROUNDED = 1e-3          # largest difference of unit rows that are the same but for their storage, for example as float16


class Versions:
    """All versions with their features.

    ``candidates`` are those that may replace ``old``: the new ones, the ``free`` ones (new models with a map, fitted without
    training a network) and the ``paragon``.
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
        self.kinds = tuple(dict.fromkeys(args.maps))
        files, maps = self.feature_files(args), fitted_files(args.fitted, set(self.files), self.old)
        for version in chain.from_iterable(self.files.values()):    # a wrong network is reported before hours of embedding
            if evaluation.source is not None and not version.is_array:
                version.open(args)
        self.stamps = stamps_of(self.files)
        self.trainings = {name: [read_features(version, evaluation, args) for version in trainings]
                          for name, trainings in self.files.items()}
        self.check_dimensions()
        self.check_different()
        for name, paths in files.items():
            for k, file in enumerate(paths):
                check_same_model(file, name, self.trainings[name][k].about)
        self.view_notes = [note for name in self.files for note in self.add_views(name, evaluation)]
        self.free: list[str] = []
        self.map_errors: dict[str, float] = {}
        self.map_sources: dict[str, tuple[Fitted | Path, str]] = {}     # mapped version -> map of its first training, direction
        directions = [BACKWARD, FORWARD][:1 + args.forward]
        for name in [name for name in files if name != self.old]:
            for direction in directions:
                self.fit(name, direction, files, evaluation)
        for mapped, (name, file) in maps.items():
            if len(self.trainings[name]) > 1 or len(self.trainings[self.old]) > 1:
                raise UserError(f"--fitted {name}={file}: {name} or {self.old} has several trainings, and a map belongs to two "
                                f"models; give one file for each version, or --old-features and --new-features")
            self.check_map(file, name)
            found = load_map(file)
            self.add_map(name, mapped, [found], file, evaluation)
            self.map_sources[mapped] = file, found[1]
        for features in chain.from_iterable(self.trainings.values()):
            features.views = []
        self.candidates = [*(trainings[0].name for trainings in new), *self.free, *(p[0].name for p in paragon)]
        self.notes = [*self.dimension_notes(), *self.view_notes]
        self.warnings = list(dict.fromkeys(features.about["note"] for features in chain.from_iterable(self.trainings.values())
                                           if "note" in features.about))
        self.warnings += [f"{name} is the same model as {self.old}: their first rows are equal" for name in
                          self.files if name != self.old and self.equals_old(name)]

    def add_views(self, name: str, evaluation: Evaluation) -> list[str]:
        """Add the compatible views of a version that are next to its files; a note on each.

        UserError if only some trainings of the version have one.
        """
        found: dict[int, list[Path]] = {}
        for version, features in zip(self.files[name], self.trainings[name], strict=True):
            for dim in {other.dim for trainings in self.trainings.values() for other in trainings} - {features.dim}:
                mapping = find_view(version.file, (features.dim, dim), features.about.get("fingerprint"))
                if mapping is not None:
                    query = mapped_side(features.views, features.query, mapping, evaluation.source)
                    same = features.gallery is features.query
                    gallery = query if same else mapped_side(features.views, features.gallery, mapping, evaluation.source)
                    features.compatible[dim] = gallery, query
                    found.setdefault(dim, []).append(view_file(folder_of(version.file), dim))
        for dim, files in found.items():
            if len(files) < len(self.files[name]):
                raise UserError(f"{len(self.files[name])} trainings of {name} have {len(files)} views of {dim} dimensions "
                                f"({files[0]}); expected one for each: copy view_{dim}.npz next to each model.pt")
        return [f"{name} has {self.features[name].dim} dimensions; with versions of {dim} it is compared through its view, "
                f"{' and '.join(map(str, files))}" for dim, files in found.items()]

    def equals_old(self, name: str) -> bool:
        """Whether a version is the same model as the old version."""
        return same_model(self.features[name], self.features[self.old])

    def check_map(self, file: Path, name: str) -> None:
        """UserError if a map was fitted on features of other models than this version and the old one."""
        for side, made in models_of(file).items():
            version = {"new": name, "old": self.old}.get(side, name)
            if other := other_model(made, self.features[version].about):
                raise UserError(f"{file} was fitted on features of another {other[0]} than {version} ({other[1]}); expected a "
                                f"map between {name} and {self.old}: fit it with tools/adapt on features of both")

    def check_trainings(self) -> None:
        """UserError if the numbers of trainings do not fit: the k-th training of a version belongs to one old model."""
        olds = len(self.files[self.old])
        for name, trainings in self.files.items():
            if len(trainings) % olds:
                raise UserError(f"{name} has {len(trainings)} trainings and {self.old} has {olds}; expected the same number of "
                                f"trainings for each old model, in the order of the old models")

    def check_dimensions(self) -> None:
        """UserError if the trainings of a version differ in their dimensions."""
        for name, trainings in self.trainings.items():
            if len({features.dim for features in trainings}) > 1:
                raise UserError(f"the trainings of {name} have {', '.join(str(f.dim) for f in trainings)} dimensions; expected "
                                f"the same number: they are trainings of one version")

    def check_different(self) -> None:
        """UserError if two trainings of a version are the same: seeds would seem to make no difference."""
        for name, trainings in self.trainings.items():
            for (k, one), (m, two) in combinations(enumerate(trainings), 2):
                if same_model(one, two):
                    one_file, other_file = (self.files[name][i].file for i in (k, m))
                    raise UserError(f"the trainings {one_file} and {other_file} of {name} have the same features; expected "
                                    f"trainings that differ in their seed: give each once")

    def check_unchanged(self) -> None:
        """UserError if a file was written again since its features were read: rows are read when they are needed."""
        now = stamps_of(self.files)
        changed = [str(file) for file, stamp in self.stamps.items() if now.get(file) != stamp]
        if changed:
            raise UserError(f"{', '.join(changed)} was written while the versions were compared, so figures may be of its new "
                            f"rows; nothing was written: compare again when it is complete")

    @property
    def features(self) -> dict[str, Features]:
        """{version: features of its first training}."""
        return {name: trainings[0] for name, trainings in self.trainings.items()}

    def dimension_notes(self) -> list[str]:
        """A sentence on each candidate that cannot be compared with the old version as it is."""
        return [self.dimension_note(name) for name in self.candidates if not self.fits(name, self.old)]

    def dimension_note(self, name: str) -> str:
        """What follows for a candidate whose dimensions are not those of the old version."""
        note = f"{name} has {self.features[name].dim} dimensions, {self.old} has {self.features[self.old].dim}: "
        mapped = [free for free in self.free if self.features[free].gallery is self.features[name].gallery]
        if mapped:
            return note + f"its queries are compared through its maps, {' and '.join(mapped)}"
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
            for mapped in [mapped_name(name, kind, direction) for kind in self.kinds for direction in (BACKWARD, FORWARD)]:
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

    def fit(self, name: str, direction: str, files: dict[str, list[Path]], evaluation: Evaluation) -> None:
        """Fit the maps of each training of ``name`` to its old model's features, and add the mapped versions."""
        found: dict[str, list[tuple[Map, str, float]]] = {}
        for k, file in enumerate(files[name]):
            fitted = fit_maps(file, pick(files[self.old], k, len(files[name])), self.kinds, direction)
            for kind, one in fitted.items():
                found.setdefault(kind, []).append((one.map, direction, one.error))
                self.map_sources.setdefault(mapped_name(name, kind, direction), (one, direction))
        for kind, trainings in found.items():
            self.add_map(name, mapped_name(name, kind, direction), trainings, files[name][0], evaluation)

    def add_map(self, name: str, mapped: str, found: list[tuple[Map, str, float]], file: Path, evaluation: Evaluation) -> None:
        """Add the version ``mapped``: each training of ``name`` with its map.  found: map, direction and held-out error."""
        if mapped in self.trainings:
            raise UserError(f"two maps are called {mapped}; rename the file of one")
        made = []
        for k, (mapping, direction, _) in enumerate(found):
            new, old = self.trainings[name][k], pick(self.trainings[self.old], k, len(found))
            expected = (new.dim, old.dim) if direction == BACKWARD else (old.dim, new.dim)
            if mapping.dims != expected:
                raise UserError(f"the map of {file} goes from {mapping.dims[0]} to {mapping.dims[1]} dimensions ({direction}), "
                                f"expected {expected[0]} to {expected[1]} as {name} and {self.old} have; fit it on features of "
                                f"these models")
            on_old: tuple[Rows, Rows]
            own = new.gallery
            if direction == BACKWARD:
                on_old = old.gallery, mapped_side(new.views, new.query, mapping, evaluation.source)
                own = on_old[1] if new.query is new.gallery else mapped_side(new.views, own, mapping, evaluation.source)
            else:
                on_old = mapped_side(old.views, old.gallery, mapping, evaluation.source), new.query
            made.append(Features(new.gallery, new.query, about=new.about, on_old=on_old, own=own))
        self.trainings[mapped] = made
        errors = [error for _, _, error in found]
        if np.isfinite(errors).all():           # that of a trained map is not known
            self.map_errors[mapped] = max(errors)
        self.free.append(mapped)

    def sides(self, query: str, gallery: str, k: int = 0, count: int = 1) -> tuple[Rows, Rows] | None:
        """(gallery rows, query rows) with which queries of one version search the other's gallery, in training k of ``count``.

        None: they cannot.  The entries of a mapped version are those of its model, so only its own queries search them.
        """
        asking, stored = (pick(self.trainings[name], k, count) for name in (query, gallery))
        if gallery == self.old and asking.on_old:
            return asking.on_old
        if query != gallery and (asking.on_old or stored.on_old):
            return None
        if asking.dim == stored.dim:
            return stored.gallery, asking.query
        return asking.against(stored)

    def fits(self, query: str, gallery: str) -> bool:
        """Whether queries of one version can search the other's gallery."""
        return self.sides(query, gallery) is not None


def stamps_of(files: dict[str, list[Version]]) -> dict[Path, tuple[int, int]]:
    """{file: size in bytes, time of its last change in ns} of all files of the versions."""
    paths = [Path(version.file) for trainings in files.values() for version in trainings]
    inside = [file for path in paths for file in (path.glob("*.npy") if path.is_dir() else [path]) if file.is_file()]
    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in inside}


def same_model(one: Features, two: Features) -> bool:
    """Whether the first rows of both sides have the same directions."""
    if one.dim != two.dim:
        return False
    rows = np.arange(min(LOOKED_AT, len(one.gallery), len(one.query)))
    return all(np.abs(unit_rows(mine, rows) - unit_rows(theirs, rows)).max() < ROUNDED
               for mine, theirs in ((one.gallery, two.gallery), (one.query, two.query)))
