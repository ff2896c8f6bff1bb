"""The gallery with the upgrade.json of a real comparison: search reproduces the figures of compare's mapped curves."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from gallery_toys import fill
from toy_comparison import run_compare

from evaluation.view_files import save_view
from gallery.names import load_upgrade, names_of
from gallery.search import Searcher
from gallery.store import open_store
from tools.gallery import gallery

pytestmark = pytest.mark.long
COUNT = 120                                     # people in the gallery; the others are searched for, too
DIMS = {"old": 16, "new": 16, "view": 24, "six": 20}
FPIR = 0.1


def write_models(folder: Path) -> None:
    """Feature files of four models: of the old space, one whose first numbers are, and one that needs a map."""
    draw = np.random.default_rng(0)
    identity, images = draw.standard_normal((2 * COUNT, 12)), draw.standard_normal((400, 12))
    labels, probes = np.arange(COUNT), np.repeat(np.arange(0, 2 * COUNT, 2), 3)
    np.save(folder / "gallery_label.npy", labels)
    np.save(folder / "probe_label.npy", probes)
    base = draw.standard_normal((12, 24))
    spaces = {"old": base[:, :16], "new": base[:, :16], "view": base, "six": draw.standard_normal((12, 20))}
    for (name, space), noise in zip(spaces.items(), (0.8, 0.6, 0.5, 0.5), strict=True):
        (folder / name).mkdir()
        for file, rows, much in (("gallery", identity[labels], noise), ("probe", identity[probes], noise), ("train", images, 0)):
            made = (rows + much * draw.standard_normal(rows.shape)) @ space
            np.save(folder / name / f"{file}.npy", made.astype(np.float32))
    save_view(folder / "view", np.eye(24, 16, dtype=np.float32), "")


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """A folder of feature files, with the comparison in out/."""
    pytest.importorskip("lancedb", reason="pip install -r requirements-stores.txt")
    folder = tmp_path_factory.mktemp("compared")
    write_models(folder)
    with pytest.MonkeyPatch.context() as patch:
        run_compare(patch, "-d", folder, "--old", f"old={folder}/old", "--new",
                    *(f"{name}={folder}/{name}" for name in ("new", "view", "six")), "--old-features", folder / "old/train.npy",
                    "--new-features", f"six={folder}/six/train.npy", "--maps", "ridge", "--forward", "--backfill", 10,
                    "--orders", 1, "--draws", 0, "--out", folder / "out")
    return folder


def store_of(compared: Path, place: Path, model: str) -> list:
    """A store of the old vectors whose column ``quality`` rises along compare's random order; the words for new vectors."""
    order = np.random.default_rng(0).permutation(COUNT)
    place.mkdir()
    fill("lancedb", str(place), [f"p{row}" for row in order], np.load(compared / "old/gallery.npy")[order])
    (place.parent / "ids.txt").write_text("\n".join(f"p{row}" for row in range(COUNT)))
    return ["--store", place, "--upgrade", compared / "out/upgrade.json", "--vectors", compared / model / "gallery.npy", "--ids",
            place.parent / "ids.txt", "--order", "quality"]


def command(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["gallery.py", *map(str, words)])
    gallery.main()


def figures(compared: Path, place: Path, name: str) -> tuple[float, float]:
    """(top-1, TPIR at FPIR 0.1) of all probes in the store."""
    upgrade, store = load_upgrade(compared / "out/upgrade.json"), open_store(str(place))
    labels = np.load(compared / "probe_label.npy")
    queries = np.load(compared / name.partition("+")[0] / "probe.npy")
    hits = Searcher(store, upgrade, names_of(store, upgrade, name, None), name, name)(queries, 1)
    values, mated = np.array([best[0].value for best in hits]), labels < COUNT
    right = np.array([best[0].id == f"p{label}" for best, label in zip(hits, labels, strict=True)])
    strangers = np.sort(values[~mated])[::-1]
    return right[mated].mean(), (right & (values > strangers[round(FPIR * len(strangers)) - 1]))[mated].mean()


@pytest.mark.parametrize("name", ["new", "view", "six+ridge"])
def test_search_on_the_way_gives_the_figures_of_the_mapped_curve(compared, tmp_path, monkeypatch, capsys, name):
    place = tmp_path / "store"
    given = [*store_of(compared, place, name.partition("+")[0]), "--new", name]
    report = json.loads((compared / "out/compare.json").read_text())
    mapped = report["upgrades"][name]["backfill"]["random"]["mapped"]["values"]
    expected = [(mapped["top-1"][0][k], mapped["TPIR@1e-1"][0][k]) for k in range(11)]
    assert len(set(expected)) > 5
    first = figures(compared, place, name)
    assert first == pytest.approx(expected[0])
    command(monkeypatch, "reembed", *given, "--share", 0.3)
    assert figures(compared, place, name) == pytest.approx(expected[3])
    command(monkeypatch, "rollback", "--store", place)
    assert figures(compared, place, name) == first
    for k in (7, 10):
        command(monkeypatch, "reembed", *given, "--share", k / 10)
        assert figures(compared, place, name) == pytest.approx(expected[k])
    command(monkeypatch, "finish", "--store", place, "--yes")
    assert figures(compared, place, name) == pytest.approx(expected[10])


def test_plan_shows_the_curve_of_the_order_of_upgrade_json_and_says_so(compared, tmp_path, monkeypatch, capsys):
    given = store_of(compared, tmp_path / "store", "new")[:-2] + ["--new", "new"]
    report, upgrade = (json.loads((compared / f"out/{name}.json").read_text()) for name in ("compare", "upgrade"))
    norm = "lowest norm of the old feature first"
    assert upgrade["order"]["name"] == norm
    curve = report["upgrades"]["new"]["backfill"][norm]["mapped"]["values"]["top-1"][0]
    capsys.readouterr()
    command(monkeypatch, "plan", *given)
    text = capsys.readouterr().out
    assert f"in the order of upgrade.json: {norm}\n" in text and all(f"{value:.4f}" in text for value in curve)
    command(monkeypatch, "plan", *given, "--order", "quality")
    assert f"of upgrade.json: {norm}; those of this order (lowest quality first) may differ\n" in capsys.readouterr().out


def test_a_mapped_gallery_gives_the_figures_of_the_forward_map(compared, tmp_path, monkeypatch, capsys):
    """Before it is mapped, on the way and after it; then those of the mapped curve, while images replace mapped entries."""
    place, name = tmp_path / "store", "six+ridge-forward"
    given = [*store_of(compared, place, "six"), "--new", name]
    maps = [*given[:4], "--new", name]
    report = json.loads((compared / "out/compare.json").read_text())
    mapped = report["upgrades"][name]["backfill"]["random"]["mapped"]["values"]
    expected = [(mapped["top-1"][0][k], mapped["TPIR@1e-1"][0][k]) for k in range(11)]
    assert len(set(expected)) > 5
    assert figures(compared, place, name) == pytest.approx(expected[0])
    command(monkeypatch, "reembed", *maps, "--share", 0.3)
    assert "36 entries moved; now 84 are old and 36 are mapped" in capsys.readouterr().out
    assert figures(compared, place, name) == pytest.approx(expected[0])
    command(monkeypatch, "reembed", *maps)
    assert figures(compared, place, name) == pytest.approx(expected[0])
    command(monkeypatch, "finish", "--store", place, "--yes")
    assert figures(compared, place, name) == pytest.approx(expected[0])
    for k in (3, 10):
        command(monkeypatch, "reembed", *given, "--share", k / 10)
        assert figures(compared, place, name) == pytest.approx(expected[k])
    command(monkeypatch, "finish", "--store", place, "--yes")
    assert open_store(str(place)).tables() == ["gallery__six_ridge_forward"]
    assert figures(compared, place, name) == pytest.approx(expected[10])
