"""upgrade.json as a search system reads it, against calculations by hand."""

import copy
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.upgrade import ScoreMap, Upgrade

SAME = {"kind": "same"}


def version(dimension: int) -> dict:
    return {"dimension": dimension, "similarity": "cosine", "normalised": False, "norm": [1, 2, 3], "fingerprint": None}


def pair(query: str, entry: str, shift: float) -> dict:
    """Thresholds 0.5 and 0.3 plus ``shift``; a map with the knots 0, 0.2 and 0.4, plus ``shift``."""
    rows = [{"far": 1e-3, "threshold": 0.5 + shift, "low": 0.4 + shift, "high": 0.6 + shift, "tar": 0.5},
            {"far": 1e-2, "threshold": 0.3 + shift, "low": None, "high": None, "tar": 0.6}]
    return {"query": query, "entry": entry, "thresholds": rows, "search": [{"fpir": 0.1, "threshold": 0.6 + shift, "low": None,
            "high": None, "tpir": 0.4}], "impostors": 100_000,
            "score_map": {"scores": [shift, 0.2 + shift, 0.4 + shift], "values": [0, 1, 3], "slope": 20.0}}


@pytest.fixture
def data(tmp_path) -> dict:
    """An upgrade from 2 to 3 dimensions, by a map with a hidden layer, next to its file."""
    draw = np.random.default_rng(0)
    arrays = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in (
        ("weight", (3, 2)), ("bias", (2,)), ("hidden_weight", (3, 4)), ("hidden_bias", (4,)), ("hidden_out", (4, 2)))}
    np.savez(tmp_path / "map.npz", **arrays)
    form = {"kind": "map", "file": "map.npz", "sha256": hashlib.sha256((tmp_path / "map.npz").read_bytes()).hexdigest()}
    return {"format": 1, "old": "old", "new": ["new"], "versions": {"old": version(2), "new": version(3)},
            "views": {"old": {"old": {"dimension": 2, "query": SAME, "entry": SAME}},
                      "new": {"old": {"dimension": 2, "query": form, "entry": SAME},
                              "new": {"dimension": 3, "query": SAME, "entry": SAME}}},
            "pairs": [pair("old", "old", 0), pair("new", "old", 0.1), pair("new", "new", -0.1)]}


def load(data: dict, folder: Path) -> Upgrade:
    (folder / "upgrade.json").write_text(json.dumps(data))
    return Upgrade.load(folder / "upgrade.json")


def test_each_pair_has_its_own_threshold_and_a_tie_is_not_accepted(data, tmp_path):
    upgrade = load(data, tmp_path)
    scores = np.array([[0.55, 0.6000005, 0.61], [0.4, 0.39, 0.41]])
    assert upgrade.accept(scores, "new", "old", 1e-3).tolist() == [[False, False, True], [False, False, False]]
    assert upgrade.accept(scores, "new", "old", 1e-2).tolist() == [[True, True, True], [False, False, True]]
    assert upgrade.accept(scores, "new", "new", 1e-3).tolist() == [[True, True, True], [False, False, True]]
    assert upgrade.accept(scores, "old", "old", 0.001).tolist() == [[True, True, True], [False, False, False]]
    assert upgrade.accept(0.7, "new", "old", far=1e-3) and not upgrade.found(0.7, "new", "old", fpir=0.1)
    assert upgrade.found(0.71, "new", "old", fpir=0.1)


def test_a_comparable_score_is_read_between_knots_and_beyond_them(data, tmp_path):
    upgrade = load(data, tmp_path)
    found = upgrade.comparable([-1, 0.1, 0.2, 0.3, 0.45, 0.5, 0.6], "new", "old")
    assert found == pytest.approx([0, 0, 0.5, 1, 2.5, 3, 5])            # knots 0.1, 0.3, 0.5; then 20 for each 1
    assert upgrade.comparable(0.4, "new", "new") == pytest.approx(3 + 20 * 0.1)
    assert (np.diff(upgrade.comparable(np.linspace(-1, 1, 2001), "new", "old")) >= 0).all()


def test_a_view_is_the_map_of_the_unit_row(data, tmp_path):
    upgrade, arrays = load(data, tmp_path), np.load(tmp_path / "map.npz")
    x = np.array([[3.0, -4.0, 12.0], [0.1, 0.2, 0.2]])
    for row, found in zip(x, upgrade.view(x, "new", "old"), strict=True):
        u = row / np.sqrt((row ** 2).sum())
        h = [sum(u[i] * float(arrays["hidden_weight"][i, j]) for i in range(3)) + float(arrays["hidden_bias"][j])
             for j in range(4)]
        g = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in h]
        y = [sum(u[i] * float(arrays["weight"][i, k]) for i in range(3)) + float(arrays["bias"][k])
             + sum(g[j] * float(arrays["hidden_out"][j, k]) for j in range(4)) for k in range(2)]
        assert found == pytest.approx(np.array(y) / math.hypot(*y), abs=1e-6)
    assert upgrade.view(x[0], "new", "new") == pytest.approx(x[0] / 13) and upgrade.view(x, "new", "new").dtype == np.float32
    assert upgrade.stored(x[:, :2], "new", "old")[0] == pytest.approx([0.6, -0.8])
    assert upgrade.view(x[:0], "new", "old").shape == (0, 2)
    assert upgrade.view(np.array([3, -4, 12], np.int8), "new", "new") == pytest.approx(x[0] / 13)
    data["views"]["new"]["old"]["query"] = {"kind": "first"}
    assert load(data, tmp_path).view(x[0], "new", "old") == pytest.approx([0.6, -0.8])


@pytest.mark.parametrize("call, sentence", [
    (lambda u: u.accept(0.5, "new", "old", 1e-4), "does not support far 0.0001 .* it supports 0.001, 0.01"),
    (lambda u: u.accept(0.5, "old", "new", 1e-3), "queries of old on entries of new were not measured; known: old on old"),
    (lambda u: u.accept([0.5, 1.2], "new", "old", 1e-3), "a score is 1.2; expected cosines"),
    (lambda u: u.comparable([0.5, np.nan], "new", "old"), "a score is nan; expected cosines"),
    (lambda u: u.view([1.0, 2.0], "new", "old"), "expected vectors of 3 numbers, made by new, found \\[2\\]"),
    (lambda u: u.view([[1.0, 2, 3], [0, 0, 0]], "new", "new"), "vector 1 holds NaN, infinity or only zeros"),
    (lambda u: u.view(np.array([[130, 1, 2]], np.uint8), "new", "new"), "signed integers, found uint8; codes without a sign"),
    (lambda u: u.view([[1j, 1, 2]], "new", "new"), "found complex128"),
    (lambda u: u.threshold("new", "old"), "give either far or fpir")])
def test_a_wrong_question_is_refused(data, tmp_path, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(load(data, tmp_path))


def changed(data: dict, place: list, value) -> dict:
    """``data`` with another value at a place; None: without it."""
    data = copy.deepcopy(data)
    inside = data
    for key in place[:-1]:
        inside = inside[key]
    if value is None:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return data


@pytest.mark.parametrize("place, value, sentence", [
    (["format"], 2, "its format is 2, expected 1"),
    (["format"], None, "its format is None, expected 1"),
    (["pairs"], None, "lacks the key 'pairs'"),
    (["pairs", 1], None, "no thresholds for queries of new on entries of old"),
    (["versions", "new", "norm"], None, "the version new lacks norm"),
    (["versions", "old"], None, "the version old is not described"),
    (["versions", "old", "similarity"], "euclid", "compared by euclid, expected cosine"),
    (["pairs", 0, "score_map", "values", 1], 4, "not monotone"),
    (["pairs", 0, "score_map", "scores", 1], 0, "not monotone"),
    (["pairs", 0, "score_map", "slope"], 0, "not monotone"),
    (["pairs", 0, "score_map", "slope"], math.nan, "it holds NaN"),
    (["pairs", 0, "score_map", "values", 1], "text", "cannot be used"),
    (["pairs", 0, "score_map", "values"], [1], "a value for each"),
    (["pairs", 0, "thresholds", 0, "threshold"], 0.2, "do not fall while far rises"),
    (["pairs", 0, "thresholds", 0, "low"], 0.55, "outside its interval"),
    (["pairs", 0, "thresholds", 0, "far"], 2, "between 0 and 1"),
    (["pairs", 0, "thresholds", 0, "far"], "0.5", "far of the thresholds of old on old is '0.5', expected a number"),
    (["pairs", 0, "thresholds", 0, "low"], 10 ** 400, "low of the thresholds of old on old is '1000"),
    (["pairs", 0, "thresholds", 1, "threshold"], -30, "not between -1 and 1"),
    (["pairs", 0, "search"], {}, "search of old on old are not a list"),
    (["pairs", 0, "score_map", "slope"], True, "slope of a score map is 'True'"),
    (["pairs", 0, "score_map", "values", 1], "0.5", "a knot of a score map is '0.5'"),
    (["pairs", 0], pair("new", "new", 0), "for a query and an entry version twice"),
    (["new"], [], "its versions are old; expected"),
    (["new"], ["new", "old"], "its versions are old, new, old; expected"),
    (["versions", "old", "dimension"], 2.0, "the dimension 2.0"),
    (["versions", "old", "normalised"], "no", "normalised 'no'"),
    (["versions", "old", "norm"], [1, 3, 2], "the norms of old are \\[1.0, 3.0, 2.0\\]"),
    (["views", "new", "old", "query", "kind"], "magic", "expected same, first or map"),
    (["views", "new", "old", "query", "file"], "other.npz", "no other.npz next to it"),
    (["views", "new", "old", "query", "sha256"], "0" * 64, "another file than the one"),
    (["views", "new", "old", "dimension"], 3, "expected 3 to 3"),
    (["views", "new", "old", "query"], SAME, "goes from 3 to 2 dimensions \\(same\\)"),
    (["views", "old", "old", "dimension"], 1, "goes from 2 to 1 dimensions")])
def test_a_wrong_file_is_refused(data, tmp_path, place, value, sentence):
    load(data, tmp_path)
    with pytest.raises(ValueError, match=sentence):
        load(changed(data, place, value), tmp_path)


def test_a_file_that_is_half_written_is_refused(tmp_path):
    (tmp_path / "upgrade.json").write_text('{"format": 1, "old')
    with pytest.raises(ValueError, match="cannot be used"):
        Upgrade.load(tmp_path / "upgrade.json")
    (tmp_path / "upgrade.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cannot be used"):
        Upgrade.load(tmp_path / "upgrade.json")
    (tmp_path / "upgrade.json").write_text("[]")
    with pytest.raises(ValueError, match="its format is None"):
        Upgrade.load(tmp_path / "upgrade.json")


def test_it_needs_numpy_only_and_no_file_of_this_project(data, tmp_path):
    """A copy of the file alone, in a process in which nothing else can be imported."""
    load(data, tmp_path)
    (tmp_path / "copied.py").write_bytes((Path(__file__).parents[2] / "serving/upgrade.py").read_bytes())
    code = ("import sys\nfor name in ('torch', 'scipy', 'cv2', 'serving', 'evaluation', 'utils'): sys.modules[name] = None\n"
            "from copied import Upgrade\nprint(Upgrade.load('upgrade.json').comparable(0.6, 'new', 'old'))")
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0 and float(found.stdout) == pytest.approx(5), found.stderr


def test_a_score_map_survives_json_and_keeps_what_never_matches():
    one = ScoreMap([0, 0.5], [0, 2], 7)
    again = ScoreMap.read(json.loads(json.dumps(one.to_json())))
    assert again([-np.inf, 0.25, 1.0]).tolist() == one([-np.inf, 0.25, 1.0]).tolist() == [-np.inf, 1.0, 5.5]
