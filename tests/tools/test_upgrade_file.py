"""The upgrade.json of a comparison, read as a search system reads it, against the features."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from toy_comparison import run_compare

from evaluation.map_files import load_map, models_of
from evaluation.map_forms import affine
from evaluation.maps import BACKWARD, Fitted
from evaluation.score_maps import fit_score_map
from evaluation.version_features import Features
from serving.upgrade import Upgrade
from tools.compare.pictures import backfill, way
from tools.compare.upgrade_file import view_of


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def result(people, tmp_path_factory) -> Path:
    """Two candidates: one of the old space, one of another dimension behind a map in either direction."""
    out = tmp_path_factory.mktemp("result")
    with pytest.MonkeyPatch.context() as patch:
        run_compare(patch, "-d", people, "--old", f"old={people / 'old'}", "--new", f"new={people / 'new'}",
                    f"six={people / 'six'}", "--old-features", people / "old/train.npy", "--new-features",
                    f"six={people / 'six/train.npy'}", "--maps", "ridge", "--forward", "--backfill", 2, "--orders", 1,
                    "--draws", 20, "--rate", 7, "--stored-images", 5000, "--out", out)
    return out


def sides(people: Path, result: Path, query: str, entry: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(entries, queries, gallery images as queries) of a pair, as unit rows."""
    model = query.partition("+")[0]
    stored = np.load(people / (model if entry == query else entry) / "gallery.npy")
    queries, own = (np.load(people / model / f"{side}.npy") for side in ("probe", "gallery"))
    if query.endswith("forward") and entry == "old":
        stored = load_map(result / f"{query}.npz")[0](stored)
    elif "+" in query and entry == "old":
        queries, own = (load_map(result / f"{query}.npz")[0](rows) for rows in (queries, own))
    return unit(stored), unit(queries), unit(own)


PAIRS = [("old", "old"), *((name, entry) for name in ("new", "six+ridge", "six+ridge-forward") for entry in ("old", name))]


@pytest.mark.parametrize("query, entry", PAIRS)
def test_thresholds_maps_and_views_are_those_of_the_pair(people, result, query, entry):
    upgrade = Upgrade.load(result / "upgrade.json")
    assert upgrade.old == "old" and set(upgrade.pairs) == set(PAIRS)
    entries, queries, own = sides(people, result, query, entry)
    model = query.partition("+")[0]
    np.testing.assert_allclose(upgrade.view(np.load(people / model / "probe.npy"), query, entry), queries, atol=1e-5)
    stored = np.load(people / (model if entry == query else entry) / "gallery.npy")
    np.testing.assert_allclose(upgrade.stored(stored, query, entry), entries, atol=1e-5)
    table = np.load(people / "pairs.npy")
    scores = np.einsum("nd,nd->n", entries[table[:, 0]], queries[table[:, 1]])
    impostors = np.sort(scores[table[:, 2] == 0])[::-1]
    far = 0.1
    assert upgrade.threshold(query, entry, far) == pytest.approx(impostors[int(far * len(impostors) + 1e-9)], abs=1e-5)
    labels = np.load(people / "gallery_label.npy")
    expected = fit_score_map((own @ entries.T)[labels[:, None] != labels])
    grid = np.linspace(-1, 1, 50)
    np.testing.assert_allclose(upgrade.comparable(grid, query, entry), expected(grid), atol=1e-3)


def test_versions_order_curve_and_verdict_are_those_of_the_report(people, result):
    content, report = (json.loads((result / name).read_text()) for name in ("upgrade.json", "compare.json"))
    six = content["versions"]["six+ridge"]
    assert (six["model"], six["file"], six["dimension"]) == ("six", f"{people}/six", 6) and six["normalised"] is False
    norms = np.linalg.norm(np.load(people / "six/gallery.npy"), axis=1)
    assert six["norm"] == pytest.approx(np.quantile(norms, [0.001, 0.5, 0.999]), abs=1e-4)
    for name in content["new"]:
        upgrade, metric = report["upgrades"][name], report["headline"][0]
        assert content["verdict"][name]["answer"] == upgrade["overall"]
        assert content["verdict"][name]["interval"] == upgrade["criterion"][upgrade["decided by"]]["interval"]
        order, curve = content["order"]["name"], content["curve"][name][metric]
        found = upgrade["backfill"][order]
        assert curve["raw"] == pytest.approx(np.mean(found["values"][metric], axis=0))
        assert curve["mapped"] == pytest.approx(np.mean(found["mapped"]["values"][metric], axis=0))
        assert curve["raw"][::2] == pytest.approx(curve["mapped"][::2])                # both ends
        assert (result / f"way_{name}.png").is_file()
        raw, mapped, *_ = (line.get_data() for line in way(report, name, metric).axes[0].lines)
        assert raw[0] == pytest.approx(np.linspace(0, 5000 / 7 / 3_600, 3)) and raw[1] / 100 == pytest.approx(curve["raw"])
        assert mapped[1] / 100 == pytest.approx(curve["mapped"])
        dashed = [line.get_ydata() / 100 for line in backfill(report, name, metric).axes[0].lines if line.get_linestyle() == "--"]
        assert any(len(line) == 3 and np.allclose(line, curve["mapped"]) for line in dashed)
    assert any(curve[metric]["raw"] != pytest.approx(curve[metric]["mapped"]) for curve in content["curve"].values()
               for metric in curve)
    means = {order: np.mean([upgrade["backfill"][order]["mapped"][report["headline"][0]]["auc"] for upgrade in
                             report["upgrades"].values()]) for order in report["upgrades"]["new"]["backfill"]}
    assert content["order"]["name"] == max(means, key=means.get)
    assert report["way"] == {"images": 5000, "rate": 7}


def test_a_gallery_without_score_maps_has_no_upgrade_file(tmp_path, monkeypatch):
    """Eight entries have 56 scores with each other: one sentence, and an earlier upgrade.json is gone."""
    draw, labels = np.random.default_rng(0), np.arange(8)
    np.save(tmp_path / "gallery_label.npy", labels)
    np.save(tmp_path / "probe_label.npy", np.repeat(labels, 3))
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "gallery.npy", draw.standard_normal((8, 4)).astype(np.float32))
        np.save(tmp_path / name / "probe.npy", draw.standard_normal((24, 4)).astype(np.float32))
    out = tmp_path / "out"
    out.mkdir()
    (out / "upgrade.json").write_text("{}")
    run_compare(monkeypatch, "-d", tmp_path, "--old", f"old={tmp_path}/old", "--new", f"new={tmp_path}/new", "--draws", 0,
                "--backfill", 2, "--out", out)
    assert not (out / "upgrade.json").exists() and "there is no upgrade.json" in (out / "compare.txt").read_text()
    report = json.loads((out / "compare.json").read_text())
    assert "mapped" not in report["upgrades"]["new"]["backfill"]["random"]


def test_a_map_that_is_written_says_which_models_its_features_are_of(tmp_path):
    """So that compare refuses it for another pair of models; facts that do not identify a model are left out."""
    rows, fitted = np.eye(4), Fitted("ridge", affine(np.eye(4)), "l = 1", 0.1, 0.9, 20, 0.0)
    features = {"old": Features(rows, rows, about={"fingerprint": "o", "dim": 4, "file": "old.pt"}),
                "new+ridge": Features(rows, rows, about={"fingerprint": "n", "note": "text"}, on_old=(rows, rows))}
    versions = SimpleNamespace(old="old", features=features, map_sources={"new+ridge": (fitted, BACKWARD)})
    view_of(SimpleNamespace(versions=versions), "new+ridge", "old", tmp_path)
    assert models_of(tmp_path / "new+ridge.npz") == {"new": {"fingerprint": "n"}, "old": {"fingerprint": "o", "dim": 4}}
