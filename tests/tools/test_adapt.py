"""tools/adapt: its files, its table, and compare's figures from them."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from ijb_toys import two_galleries
from onnx_small_model import write_model

from evaluation.map_files import load_map
from evaluation.maps import BACKWARD, FORWARD, KINDS
from tools.adapt import adapt
from tools.compare import compare
from utils.errors import UserError
from utils.origin import save_array


def run_tool(monkeypatch, tool, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["tool.py", *map(str, words)])
    tool.main()


def write_features(folder, rows: int = 200) -> list:
    """--old and --new with files of features [rows, 5] of the same images."""
    draw = np.random.default_rng(3)
    new = draw.standard_normal((rows, 5)).astype(np.float32)
    old = new @ draw.standard_normal((5, 5)) + 0.2 * draw.standard_normal((rows, 5)) + 0.3
    np.save(folder / "new_train.npy", new)
    np.save(folder / "old_train.npy", old.astype(np.float32))
    return ["--old", folder / "old_train.npy", "--new", folder / "new_train.npy"]


@pytest.mark.long
@pytest.mark.parametrize("reverse", [False, True])
def test_compare_gives_the_figures_of_the_map_for_npz_onnx_and_its_own_fit(tmp_path, monkeypatch, reverse):
    """The three ways to a mapped version: fitted in compare, --fitted FILE.npz, and embeddings mapped by onnxruntime."""
    monkeypatch.setattr(compare, "draw_pictures", lambda report, out: {})
    arrays, files = two_galleries(tmp_path), write_features(tmp_path)
    suffix = "-forward" if reverse else ""
    run_tool(monkeypatch, adapt, *files, "--out", tmp_path / "maps", *(["--reverse"] if reverse else []))
    assert load_map(tmp_path / f"maps/ridge{suffix}.npz")[1] == (FORWARD if reverse else BACKWARD)
    mapped = []
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    side = "old" if reverse else "new"
    for kind in KINDS:
        (tmp_path / f"maps/{kind}{suffix}.npz").rename(tmp_path / f"maps/taken-{kind}.npz")
        session = onnxruntime.InferenceSession(str(tmp_path / f"maps/{kind}{suffix}.onnx"))
        views = np.stack([session.run(None, {"embedding": view})[0] for view in arrays[side]])
        np.save(tmp_path / f"by-onnx-{kind}.npy", views)
        mapped.append(f"by-onnx-{kind}={tmp_path / f'by-onnx-{kind}.npy'}")
    run_tool(monkeypatch, compare, "-d", tmp_path, "--old", f"old={tmp_path / 'old.npy'}", "--new", f"new={tmp_path / 'new.npy'}",
             *mapped, "--old-features", files[1], "--new-features", f"new={files[3]}", "--maps", *KINDS,
             *(["--forward"] if reverse else []), "--fitted", *[f"new={tmp_path / f'maps/taken-{kind}.npz'}" for kind in KINDS],
             "--draws", 0, "--backfill", 0, "--out", tmp_path / "out")
    matrix = json.loads((tmp_path / "out/compare.json").read_text())["matrix"]
    cells = []
    for kind in KINDS:
        fitted, taken = matrix[f"new+{kind}{suffix}"], matrix[f"new+taken-{kind}"]
        by_onnx = matrix["new"][f"by-onnx-{kind}"] if reverse else matrix[f"by-onnx-{kind}"]["old"]
        assert fitted["old"] == taken["old"] == by_onnx, kind
        assert fitted[f"new+{kind}{suffix}"] == taken[f"new+taken-{kind}"] == matrix["new"]["new"], kind
        cells.append(json.dumps(by_onnx))
    assert len(set(cells)) > 2 and json.dumps(matrix["new"]["old"]) not in cells


def test_the_table_has_a_row_for_each_map_and_the_curve(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("evaluation.maps.CURVE", (40, 90))
    run_tool(monkeypatch, adapt, *write_features(tmp_path), "--out", tmp_path / "maps", "--samples", 2)
    out, facts = capsys.readouterr().out, json.loads((tmp_path / "maps/adapt.json").read_text())
    assert "new queries to the old space, 5 to 5 dimensions, 200 images" in out
    for kind in KINDS:
        found = facts["maps"][kind]
        assert {count: len(errors) for count, errors in found["curve"].items()} == {"40": 2, "90": 2, "180": 1}
        row = next(line for line in out.splitlines() if line.startswith(f"| {kind} "))
        expected = [found["error"], found["cosine"], None, *(np.mean(errors) for errors in found["curve"].values())]
        shown = [cell.strip() for cell in row.split("|")[3:-1]]
        assert [f"{x:.4f}" for x in expected if x is not None] == shown[:2] + shown[3:], kind
        assert load_map(tmp_path / f"maps/{kind}.npz")[2] == found["error"]


def test_a_sample_of_the_images_is_named_in_the_files(tmp_path, monkeypatch, capsys):
    files, weights = write_features(tmp_path), []
    for seed in (0, 0, 1):
        run_tool(monkeypatch, adapt, *files, "--out", tmp_path / "maps", "--map", "ridge", "--images", 60, "--seed", seed)
        weights.append(load_map(tmp_path / f"maps/ridge-60-seed{seed}.npz")[0].weight)
    assert np.array_equal(weights[0], weights[1]) and not np.allclose(weights[0], weights[2])
    facts = json.loads((tmp_path / "maps/adapt-60-seed1.json").read_text())
    assert "60 images" in capsys.readouterr().out and facts["images"] == 60
    with pytest.raises(UserError, match="--images 201: .* holds 200"):
        run_tool(monkeypatch, adapt, *files, "--out", tmp_path / "maps", "--images", 201)


def test_the_model_and_the_map_are_written_as_one_file(tmp_path, monkeypatch):
    weight = write_model(tmp_path / "model.onnx", dim=5, shape=("N", 5))
    run_tool(monkeypatch, adapt, *write_features(tmp_path), "--out", tmp_path / "maps", "--map", "low-rank", "--samples", 0,
             "--model", tmp_path / "model.onnx")
    images = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "maps/low-rank_model.onnx"))
    expected = load_map(tmp_path / "maps/low-rank.npz")[0](images.reshape(4, 12) @ weight)
    np.testing.assert_allclose(session.run(None, {"input": images})[0], expected, atol=1e-5)


def test_a_model_of_other_dimensions_is_refused_before_anything_is_fitted(tmp_path, monkeypatch):
    write_model(tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"\[6\] numbers for each image, the map takes 5"):
        run_tool(monkeypatch, adapt, *write_features(tmp_path), "--out", tmp_path / "maps", "--model", tmp_path / "model.onnx")
    assert not (tmp_path / "maps").exists()


def test_fewer_images_than_dimensions_are_said(tmp_path, monkeypatch, capsys):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((60, 40)).astype(np.float32)
    np.save(tmp_path / "new.npy", x)
    np.save(tmp_path / "old.npy", x[:, :30] + 0.01)
    files = ["--old", tmp_path / "old.npy", "--new", tmp_path / "new.npy"]
    run_tool(monkeypatch, adapt, *files, "--out", tmp_path, "--map", "ridge", "--images", 30)
    assert "27 images are fewer than 40 dimensions" in capsys.readouterr().out


def test_fitted_maps_that_compare_cannot_use_are_refused(tmp_path, monkeypatch):
    arrays, files = two_galleries(tmp_path), write_features(tmp_path)
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "four.npy", arrays["new"][..., :4])
    run_tool(monkeypatch, adapt, *files, "--out", tmp_path / "maps", "--map", "ridge", "--samples", 0)
    ridge = tmp_path / "maps/ridge.npz"
    start = ["-d", tmp_path, "--old", f"old={tmp_path / 'old.npy'}", "--out", tmp_path / "out", "--draws", 0, "--new"]
    for words, sentence in (([f"new={tmp_path / 'four.npy'}", "--fitted", f"new={ridge}"], r"goes from 5 to 5 .*expected 4 to 5"),
                            ([f"new={tmp_path / 'new.npy'}", "--fitted", f"old={ridge}"], "expected one of new before the ="),
                            ([f"new={tmp_path / 'new.npy'}", "--fitted", *[f"new={ridge}"] * 2], "file names that differ"),
                            ([f"new={tmp_path / 'new.npy'}", "--fitted", f"new={files[1]}"], "is not a map"),
                            ([f"new={tmp_path / 'new.npy'}", "--fitted", f"new={ridge}", "--old-features", files[1],
                              "--new-features", f"new={files[3]}"], r"two maps are called new\+ridge")):
        with pytest.raises(UserError, match=sentence):
            run_tool(monkeypatch, compare, *start, *words)


@pytest.mark.long
def test_compare_shows_the_maps_of_two_trainings_by_the_names_of_their_folders(tmp_path, monkeypatch):
    """Both files are called map.npz; their error is not known, so compare.json has none, and its cells are those of the map."""
    from backbones.feature_maps import FeatureMap
    from engine.feature_training import write_map

    monkeypatch.setattr(compare, "draw_pictures", lambda report, out: {})
    arrays, mapped = two_galleries(tmp_path), []
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    for name, hidden in (("MixBCT", 0), ("L2", 7)):
        network = FeatureMap(5, 5, hidden)
        with torch.no_grad():
            network.linear.weight += torch.eye(5)
        (tmp_path / name).mkdir()
        write_map(tmp_path / name, network, None, 9, {})
        with torch.no_grad():
            views = [network(torch.nn.functional.normalize(torch.from_numpy(view))).numpy()
                     * np.linalg.norm(view, axis=1, keepdims=True) for view in arrays["new"]]
        np.save(tmp_path / f"by-hand-{name}.npy", np.stack(views).astype(np.float32))
        mapped.append(f"by-hand-{name}={tmp_path / f'by-hand-{name}.npy'}")
    run_tool(monkeypatch, compare, "-d", tmp_path, "--old", f"old={tmp_path / 'old.npy'}", "--new", f"new={tmp_path / 'new.npy'}",
             *mapped, "--fitted", *[f"new={tmp_path / name / 'map.npz'}" for name in ("MixBCT", "L2")], "--draws", 0,
             "--backfill", 0, "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out/compare.json").read_text())
    assert report["map errors"] == {}
    for name in ("MixBCT", "L2"):
        assert report["matrix"][f"new+{name}"]["old"] == report["matrix"][f"by-hand-{name}"]["old"]
        assert report["matrix"][f"new+{name}"][f"new+{name}"] == report["matrix"]["new"]["new"]


@pytest.mark.parametrize("wrong", ["new", "old"])
def test_a_map_of_other_models_is_refused(tmp_path, monkeypatch, wrong):
    """The features of the images that maps are fitted on, and those of the evaluation, say which models made them."""
    arrays, models = two_galleries(tmp_path), {"new": "a" * 64, "old": "b" * 64}
    files = write_features(tmp_path)
    for side, file in (("old", files[1]), ("new", files[3])):
        save_array(file, np.load(file), {"model": models[side], "records": "r", "dim": 5})
        save_array(tmp_path / f"{side}.npy", arrays[side].astype(np.float32), {"model": models[side], "dim": 5})
    run_tool(monkeypatch, adapt, *files, "--out", tmp_path / "maps", "--map", "ridge", "--samples", 0)
    words = ["-d", tmp_path, "--old", f"old={tmp_path / 'old.npy'}", "--new", f"new={tmp_path / 'new.npy'}", "--fitted",
             f"new={tmp_path / 'maps/ridge.npz'}", "--draws", 0, "--backfill", 0, "--out", tmp_path / "out"]
    monkeypatch.setattr(compare, "draw_pictures", lambda report, out: {})
    run_tool(monkeypatch, compare, *words)
    save_array(tmp_path / f"{wrong}.npy", arrays[wrong].astype(np.float32), {"model": "c" * 64, "dim": 5})
    sentence = rf"fitted on features of another model \(fingerprint {models[wrong][:12]}\) than {wrong} \(c{{12}}\)"
    with pytest.raises(UserError, match=sentence):
        run_tool(monkeypatch, compare, *words)
