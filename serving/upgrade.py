"""What a serving system needs while a gallery is upgraded: thresholds, scores that can be compared, and views of queries.

    upgrade = Upgrade.load("upgrade.json")
    rows = upgrade.view(queries, "NEW", "old")                      # what new queries are against old entries, norm 1
    upgrade.accept(scores, "NEW", "old", far=1e-4)                  # which pairs are accepted, bool
    upgrade.comparable(scores, "NEW", "old")                        # -log10(false accept rate of a score)

Scores are cosines. Scores of new queries with old and with re-embedded entries have different scales; hits of both are sorted by
``comparable``. tools/compare/compare.py writes upgrade.json; docs/upgrade.md describes its keys. This file needs Python 3.10 and
numpy and nothing else of this project: copy it. Every error is a ValueError with a sentence, or an OSError of a missing file.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np

FORMAT = 1
TIE = 1e-6                  # cosines that differ by less are equal: a score is accepted if it is above the threshold by more
LARGEST_COSINE = 1.001      # float16 vectors may give a little more than 1
LARGEST_NUMBER = 1e300      # of a file
VERSION_KEYS = ("dimension", "similarity", "normalised", "norm", "fingerprint")
erf = np.frompyfunc(math.erf, 1, 1)


class ScoreMap:
    """-log10 of the share of impostor pairs that reach a score: linear between knots, then linear with ``slope``."""

    def __init__(self, scores, values, slope: float):
        """scores: ascending; values: not descending, both [K]; slope: per unit of score above the last knot, above 0."""
        self.scores, self.values, self.slope = np.asarray(scores, float), np.asarray(values, float), float(slope)
        if self.scores.ndim != 1 or self.scores.shape != self.values.shape or len(self.scores) < 2:
            raise ValueError("a score map needs at least two knots and a value for each")
        if not (np.isfinite(self.scores).all() and np.isfinite(self.values).all() and np.isfinite(self.slope)):
            raise ValueError("a score map holds numbers that are not finite")
        if (np.diff(self.scores) <= 0).any() or (np.diff(self.values) < 0).any() or self.slope <= 0:
            raise ValueError("a score map is not monotone: a higher score must never become a lower value")

    def __call__(self, scores) -> np.ndarray:
        """The value of each score, float64 of the same shape; -inf stays -inf."""
        scores = np.asarray(scores, float)
        beyond = np.maximum(scores - self.scores[-1], 0)
        values = np.interp(scores, self.scores, self.values) + self.slope * beyond
        return np.where(np.isneginf(scores), -np.inf, values)

    @classmethod
    def read(cls, entry: dict) -> "ScoreMap":
        scores, values = ([number(value, "a knot of a score map") for value in entry[key]] for key in ("scores", "values"))
        return cls(scores, values, number(entry["slope"], "the slope of a score map"))

    def to_json(self) -> dict:
        return {"scores": self.scores.tolist(), "values": self.values.tolist(), "slope": self.slope}


class VectorMap:
    """|x| g(x / |x|) of vectors x, with g(u) = u W + b + gelu(u W1 + b1) W2; the last term only if the file has it."""

    def __init__(self, file: Path):
        with np.load(file, allow_pickle=False) as arrays:
            self.weight, self.bias = arrays["weight"], arrays["bias"]
            self.hidden = [arrays[name] for name in ("hidden_weight", "hidden_bias", "hidden_out") if name in arrays]
        found = [array.shape for array in (self.weight, self.bias, *self.hidden)]
        d_in, d_out = self.weight.shape if self.weight.ndim == 2 else (0, 0)
        width = self.hidden[0].shape[-1] if self.hidden else 0
        expected: list[tuple] = [(d_in, d_out), (d_out,), (d_in, width), (width,), (width, d_out)]
        if found != expected[:5 if self.hidden else 2] or not d_in:
            raise ValueError(f"{file} holds arrays {[list(shape) for shape in found]} that make no map; copy it again")
        if not all(np.isfinite(array).all() for array in (self.weight, self.bias, *self.hidden)):
            raise ValueError(f"{file} holds numbers that are not finite; copy it again")

    def __call__(self, unit: np.ndarray) -> np.ndarray:
        """g of rows of norm 1, [n, d_out]."""
        out = unit @ self.weight + self.bias
        if self.hidden:
            w1, b1, w2 = self.hidden
            x = unit @ w1 + b1
            out = out + (x / 2 * (1 + erf(x / np.sqrt(2)).astype(float))) @ w2
        return out


class Upgrade:
    """The content of an upgrade.json.  ``old``: the version that embedded the gallery; ``new``: those that may replace it.

    A name in ``new`` is a model with its way of searching the old entries: a model with two maps has two names and one
    fingerprint. ``data`` is the file as a dict.
    """

    def __init__(self, data: dict, folder: Path):
        """folder: of the map files.  ValueError if something is missing or contradictory."""
        self.data, self.folder = data, folder
        self.old, self.new, self.versions = data["old"], list(data["new"]), data["versions"]
        self.pairs = {(pair["query"], pair["entry"]): pair for pair in data["pairs"]}
        versions = [self.old, *self.new]
        if len(versions) < 2 or len(set(versions)) < len(versions):
            raise ValueError(f"its versions are {', '.join(map(str, versions))}; expected the old one and different new ones")
        if len(self.pairs) < len(data["pairs"]):
            raise ValueError("it has thresholds for a query and an entry version twice")
        for name in versions:
            if name not in self.versions:
                raise ValueError(f"the version {name} is not described")
            check_version(name, self.versions[name])
        expected = [(self.old, self.old), *((name, entry) for name in self.new for entry in (self.old, name))]
        for pair in expected:
            if pair not in self.pairs:
                raise ValueError(f"it has no thresholds for queries of {pair[0]} on entries of {pair[1]}")
        self.maps = {names: ScoreMap.read(pair["score_map"]) for names, pair in self.pairs.items()}
        for names, pair in self.pairs.items():
            for kind, rate in (("thresholds", "far"), ("search", "fpir")):
                check_thresholds(pair[kind], rate, f"{kind} of {names[0]} on {names[1]}")
        self.views = {names: self.read_view(*names) for names in self.pairs}

    @classmethod
    def load(cls, file: str | Path) -> "Upgrade":
        """Read and check an upgrade.json and the maps next to it; ValueError if it cannot be used."""
        try:
            data = json.loads(Path(file).read_text(encoding="utf-8"), parse_constant=refuse_constant)
            found = data.get("format") if isinstance(data, dict) else None
            if found != FORMAT:
                raise ValueError(f"its format is {found}, expected {FORMAT}")
            return cls(data, Path(file).parent)
        except KeyError as error:
            raise ValueError(f"{file} lacks the key {error}; write it again with tools/compare/compare.py") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} cannot be used: {error}; write it again with tools/compare/compare.py") from error

    def read_view(self, query: str, entry: str) -> dict:
        """{"query", "entry": a map or None} of a pair."""
        view = self.data["views"][query][entry]
        found: dict = {"dimension": view["dimension"]}
        for side in ("query", "entry"):
            form, version = view[side], self.versions[{"query": query, "entry": entry}[side]]
            if form["kind"] not in ("same", "first", "map"):
                raise ValueError(f"the view of {query} on {entry} is {form['kind']!r}, expected same, first or map")
            found[side] = self.read_map(form) if form["kind"] == "map" else None
            dims = found[side].weight.shape if found[side] else (version["dimension"], view["dimension"])
            fits = dims[0] >= dims[1] if form["kind"] == "first" else dims[0] == dims[1] if form["kind"] == "same" else True
            if dims != (version["dimension"], view["dimension"]) or not fits:
                raise ValueError(f"the view of {query} on {entry} goes from {dims[0]} to {dims[1]} dimensions ({form['kind']}), "
                                 f"expected {version['dimension']} to {view['dimension']}")
        return found

    def read_map(self, form: dict) -> VectorMap:
        """The map of a view, from the file next to upgrade.json, if its checksum is right."""
        file = self.folder / Path(form["file"]).name
        if not file.is_file():
            raise ValueError(f"there is no {file.name} next to it: copy both")
        if hashlib.sha256(file.read_bytes()).hexdigest() != form["sha256"]:
            raise ValueError(f"{file.name} next to it is another file than the one it was written with: copy both")
        return VectorMap(file)

    def pair(self, query: str, entry: str) -> dict:
        """What is known about queries of one version on entries of another; ValueError for versions that do not meet."""
        if (query, entry) not in self.pairs:
            known = ", ".join(f"{one} on {two}" for one, two in self.pairs)
            raise ValueError(f"queries of {query} on entries of {entry} were not measured; known: {known}")
        return self.pairs[query, entry]

    def threshold(self, query: str, entry: str, far: float | None = None, fpir: float | None = None) -> float:
        """The threshold at a false accept rate of pairs, or at a false positive rate of a search; ValueError if not measured."""
        if (far is None) == (fpir is None):
            raise ValueError("give either far or fpir")
        kind, rate, wanted = ("search", "fpir", fpir) if far is None else ("thresholds", "far", far)
        rows = self.pair(query, entry)[kind]
        for row in rows:
            if math.isclose(row[rate], wanted, rel_tol=1e-6):       # type: ignore[arg-type]
                return row["threshold"]
        known = ", ".join(f"{row[rate]:g}" for row in rows) or "none"
        raise ValueError(f"the data does not support {rate} {wanted:g} for queries of {query} on entries of {entry}; it supports "
                         f"{known}")

    def accept(self, score, query_version: str, entry_version: str, far: float) -> np.ndarray:
        """Which scores are accepted, bool of the same shape."""
        return cosines(score) > self.threshold(query_version, entry_version, far) + TIE

    def found(self, score, query_version: str, entry_version: str, fpir: float) -> np.ndarray:
        """Which best hits of a search are accepted, bool of the same shape; FPIR grows with the gallery it was measured on."""
        return cosines(score) > self.threshold(query_version, entry_version, fpir=fpir) + TIE

    def comparable(self, score, query_version: str, entry_version: str) -> np.ndarray:
        """-log10 of the false accept rate of each score, float64 of the same shape; higher is more alike in every pair."""
        self.pair(query_version, entry_version)
        return self.maps[query_version, entry_version](cosines(score))

    def view(self, vectors, query_version: str, entry_version: str) -> np.ndarray:
        """Query vectors [n, d] or [d] as they are compared with entries of a version: float32 rows of norm 1."""
        return self.side("query", vectors, query_version, entry_version)

    def stored(self, vectors, query_version: str, entry_version: str) -> np.ndarray:
        """The same of stored vectors, which only a map from the old to the new space changes."""
        return self.side("entry", vectors, query_version, entry_version)

    def side(self, side: str, vectors, query: str, entry: str) -> np.ndarray:
        self.pair(query, entry)
        name, view = {"query": query, "entry": entry}[side], self.views[query, entry]
        rows = np.asarray(vectors)
        if rows.dtype.kind not in "fi":         # codes without a sign have an offset, complex numbers no cosine
            raise ValueError(f"expected vectors of floats or of signed integers, found {rows.dtype}; codes without a sign have "
                             f"an offset (the zero point, often 128): take it off first")
        with np.errstate(over="ignore"):
            rows = rows.astype(np.float32)
        if rows.ndim not in (1, 2) or rows.shape[-1] != self.versions[name]["dimension"]:
            raise ValueError(f"expected vectors of {self.versions[name]['dimension']} numbers, made by {name}, found "
                             f"{list(rows.shape)}")
        rows = unit(rows.reshape(-1, rows.shape[-1]))
        rows = view[side](rows) if view[side] else rows[:, :view["dimension"]]
        return unit(rows).astype(np.float32).reshape(*np.shape(vectors)[:-1], view["dimension"])


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of norm 1; ValueError if a row has no direction."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(norm) & (norm > 0)).all():
        raise ValueError(f"vector {np.flatnonzero(~(np.isfinite(norm) & (norm > 0)))[0]} holds NaN, infinity or only zeros")
    return rows / norm


def cosines(score) -> np.ndarray:
    """The scores as float64; ValueError if they cannot be cosines."""
    scores = np.asarray(score, float)
    if not (np.abs(scores) <= LARGEST_COSINE).all():
        worst = scores.flat[int(np.argmax(~(np.abs(scores) <= LARGEST_COSINE)))]
        raise ValueError(f"a score is {worst:g}; expected cosines between -1 and 1, not distances and not products of vectors "
                         f"whose norm is not 1")
    return scores


def number(value, name: str) -> float:
    """A number of the file; ValueError for text, true, null, or what a float cannot hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST_NUMBER:
        raise ValueError(f"{name} is {str(value)[:40]!r}, expected a number")
    return float(value)


def check_version(name: str, version: dict) -> None:
    """ValueError unless a version is described, and compared by cosine."""
    missing = [key for key in VERSION_KEYS if key not in version]
    if missing:
        raise ValueError(f"the version {name} lacks {', '.join(missing)}")
    if version["similarity"] != "cosine":
        raise ValueError(f"the version {name} is compared by {version['similarity']}, expected cosine")
    dimension, normalised, norms = version["dimension"], version["normalised"], version["norm"]
    if type(dimension) is not int or type(normalised) not in (bool, type(None)):
        raise ValueError(f"the version {name} has the dimension {dimension!r} and normalised {normalised!r}; expected a whole "
                         f"number, and true, false or null")
    if norms is not None:
        found = [number(norm, f"a norm of {name}") for norm in norms]
        if len(found) != 3 or found != sorted(found) or found[0] < 0:
            raise ValueError(f"the norms of {name} are {found}; expected three that ascend from 0")


def check_thresholds(rows: list[dict], rate: str, name: str) -> None:
    """ValueError unless thresholds are cosines that fall as the rate rises, and inside their intervals."""
    if not isinstance(rows, list):
        raise ValueError(f"the {name} are not a list")
    for row in rows:
        for key in (rate, "threshold", *(key for key in ("low", "high") if row["low"] is not None)):
            number(row[key], f"{key} of the {name}")
    rates, thresholds = (np.array([row[key] for row in rows], float) for key in (rate, "threshold"))
    if not ((np.abs(thresholds) <= LARGEST_COSINE).all() and ((rates > 0) & (rates < 1)).all()):
        raise ValueError(f"the {name} are not between -1 and 1, or their rates are not between 0 and 1")
    if (np.diff(rates) <= 0).any() or (np.diff(thresholds) > 0).any():
        raise ValueError(f"the {name} do not fall while {rate} rises")
    for row in rows:
        if row["low"] is not None and not row["low"] <= row["threshold"] <= row["high"]:
            raise ValueError(f"a threshold of the {name} is outside its interval")


def refuse_constant(name: str) -> float:
    """NaN and Infinity are no JSON."""
    raise ValueError(f"it holds {name}")
