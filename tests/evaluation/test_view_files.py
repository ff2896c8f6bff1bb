"""A compatible view next to a model: it is found, compared with the right model, and used where dimensions differ."""

import json

import numpy as np
import pytest
import torch
from toy_comparison import run_compare, write_features

from backbones import get_model
from backbones.weights import fingerprint, load_state
from evaluation.view_files import find_view, save_view, view_file
from serving.upgrade import Upgrade
from utils.errors import UserError


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Features "old" and "new" of 8 dimensions; wide: "new" and four more; four: with a map to 8; mapped: its rows."""
    folder = tmp_path_factory.mktemp("people")
    write_features(folder)
    draw = np.random.default_rng(5)
    matrix = np.linalg.qr(draw.standard_normal((8, 8)))[0][:4].astype(np.float32)
    for name in ("wide", "four", "mapped"):
        (folder / name).mkdir()
    for side in ("gallery", "probe"):
        rows = np.load(folder / f"new/{side}.npy")
        np.save(folder / f"wide/{side}.npy", np.c_[rows, draw.standard_normal((len(rows), 4)).astype(np.float32)])
        np.save(folder / f"four/{side}.npy", rows @ matrix.T)
        np.save(folder / f"mapped/{side}.npy", rows @ matrix.T @ matrix)
    save_view(folder / "wide", np.eye(12, 8, dtype=np.float32), "a" * 64)
    save_view(folder / "four", matrix, "b" * 64)
    return folder


def compared(monkeypatch, people, out, *new: str, **more) -> dict:
    run_compare(monkeypatch, "-d", people, "--old", f"old={people / 'old'}", "--new", *(f"{n}={people / n}" for n in new),
                "--backfill", 2, "--orders", 1, "--draws", 20, "--out", out, *more.get("words", ()))
    return json.loads((out / "compare.json").read_text())


@pytest.mark.parametrize("name, plain", [("wide", "new"), ("four", "mapped")])
def test_a_version_of_another_dimension_is_compared_through_its_view(people, tmp_path, monkeypatch, name, plain):
    """On the old gallery, and old queries on its entries: as the rows of the view. Alone: as it is. And said."""
    report = compared(monkeypatch, people, tmp_path, name, plain)
    matrix = report["matrix"]
    for query, gallery in ((name, "old"), ("old", name), (name, plain), (plain, name)):
        same = matrix[{name: plain}.get(query, query)][{name: plain}.get(gallery, gallery)]
        for metric, figure in same.items():
            assert matrix[query][gallery][metric]["value"] == pytest.approx(figure["value"], abs=1e-3)
    dim = {"wide": 12, "four": 4}[name]
    assert f"{name} has {dim} dimensions; with versions of 8 it is compared through its view, {people / name}/view_8.npz" \
        in report["notes"]
    if name == "wide":
        assert matrix["wide"]["wide"]["top-1"] != matrix["new"]["new"]["top-1"]
    backfill = report["upgrades"][name]["backfill"]["random"]["values"]["top-1"][0]
    assert backfill[0] == pytest.approx(matrix[name]["old"]["top-1"]["value"])
    assert backfill[-1] == pytest.approx(matrix[name][name]["top-1"]["value"])
    assert min(backfill[0], backfill[-1]) - 0.1 < backfill[1] < max(backfill[0], backfill[-1]) + 0.1


def test_the_view_of_the_old_version(people, tmp_path, monkeypatch):
    """A new model of 8 dimensions on an old gallery of 12 that has a view of 8, also while it is re-embedded."""
    run_compare(monkeypatch, "-d", people, "--old", f"wide={people / 'wide'}", "--new", f"turned={people / 'turned'}",
                f"new={people / 'new'}", "--backfill", 2, "--orders", 1, "--draws", 20, "--out", tmp_path)
    report = json.loads((tmp_path / "compare.json").read_text())
    cross, alone = (report["matrix"]["new"][gallery]["top-1"]["value"] for gallery in ("wide", "new"))
    assert cross == pytest.approx(alone, abs=1e-3)                  # the view of wide is new
    curve = report["upgrades"]["new"]["backfill"]["random"]["values"]["top-1"][0]
    assert curve == pytest.approx([alone] * 3, abs=1e-3)


def unit(file) -> np.ndarray:
    rows = np.load(file)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_search_system_gets_the_views(people, tmp_path, monkeypatch):
    """upgrade.json of wide against old is that of new, the rows of its view; also if the old version has the view."""
    compared(monkeypatch, people, tmp_path / "a", "wide", "new")
    upgrade, grid = Upgrade.load(tmp_path / "a/upgrade.json"), np.linspace(-1, 1, 30)
    np.testing.assert_allclose(upgrade.view(np.load(people / "wide/probe.npy"), "wide", "old"), unit(people / "new/probe.npy"),
                               atol=1e-5)
    assert upgrade.threshold("wide", "old", 0.1) == pytest.approx(upgrade.threshold("new", "old", 0.1), abs=1e-5)
    np.testing.assert_allclose(upgrade.comparable(grid, "wide", "old"), upgrade.comparable(grid, "new", "old"), atol=1e-3)
    run_compare(monkeypatch, "-d", people, "--old", f"wide={people / 'wide'}", "--new", f"new={people / 'new'}", "--backfill", 0,
                "--draws", 20, "--out", tmp_path / "b")
    upgrade = Upgrade.load(tmp_path / "b/upgrade.json")
    np.testing.assert_allclose(upgrade.stored(np.load(people / "wide/gallery.npy"), "new", "wide"),
                               unit(people / "new/gallery.npy"), atol=1e-5)
    np.testing.assert_allclose(upgrade.view(np.load(people / "new/probe.npy"), "new", "wide"), unit(people / "new/probe.npy"),
                               atol=1e-5)
    assert upgrade.threshold("new", "wide", 0.1) == pytest.approx(upgrade.threshold("new", "new", 0.1), abs=1e-5)


def test_a_view_can_be_given_as_a_map(people, tmp_path, monkeypatch):
    """For embeddings without a folder; a trained view has no held-out error, and no warning."""
    report = compared(monkeypatch, people, tmp_path, "wide", "new", words=["--fitted", f"wide={people / 'wide/view_8.npz'}"])
    found, same = (report["matrix"][name]["old"]["top-1"]["value"] for name in ("wide+view_8", "new"))
    assert found == pytest.approx(same, abs=1e-3) and not report["warnings"]


def test_a_view_of_another_model_or_dimension_is_refused(tmp_path):
    torch.manual_seed(0)
    model = tmp_path / "model.pt"
    torch.save(get_model("mbf", num_features=12, image_size=16).state_dict(), model)
    print_of = fingerprint(load_state(model))
    assert find_view(model, (12, 8), print_of) is None
    save_view(tmp_path, np.eye(12, 8, dtype=np.float32), print_of)
    assert np.array_equal(find_view(model, (12, 8), print_of).weight, np.eye(12, 8))
    assert find_view(tmp_path / "model.onnx", (12, 8), print_of) is None and find_view(model, (12, 6), print_of) is None
    with pytest.raises(UserError, match="view_8.npz is the view of the model .*copy both from one training"):
        find_view(model, (12, 8), "f" * 64)
    with pytest.raises(UserError, match="goes from 12 to 8 dimensions .new to old., expected 10 to 8"):
        find_view(model, (10, 8), print_of)
    view_file(tmp_path, 8).write_text("no zip")
    with pytest.raises(UserError, match="view_8.npz is not a map"):
        find_view(model, (12, 8), print_of)


def test_versions_with_and_without_a_view_are_not_mixed(people, tmp_path, monkeypatch):
    (tmp_path / "bare").mkdir()
    for side in ("gallery", "probe"):
        np.save(tmp_path / f"bare/{side}.npy", np.load(people / f"wide/{side}.npy")[:, ::-1])
    with pytest.raises(UserError, match="2 trainings of new have 1 views of 8 dimensions"):
        run_compare(monkeypatch, "-d", people, "--old", f"old={people / 'old'}", "--new",
                    f"new={people / 'wide'},{tmp_path / 'bare'}", "--out", tmp_path / "out")
