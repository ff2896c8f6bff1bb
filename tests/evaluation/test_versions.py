"""Versions of a model: which arguments open one, and which embeddings become its features."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from ijb_toys import two_galleries

from evaluation import version_features, version_names
from evaluation.evaluation_set import read_evaluation
from evaluation.inputs import RAW, InputOptions
from evaluation.models import describe
from evaluation.version_features import check_same_model, read_features
from evaluation.version_names import Version
from evaluation.versions import Versions
from tools.compare import compare
from utils.errors import UserError
from utils.origin import save_array


def test_features_of_another_model_or_input_are_not_used_for_its_maps(tmp_path):
    """What get_feature keeps next to features, and what a version is, must be the same model with the same input."""
    model = Namespace(dim=5, image_size=16, precision="onnx", input=RAW, output="out", fingerprint="f" * 64)
    about = {"fingerprint": model.fingerprint} | describe(model)
    for changed, words in [({}, None), ({"precision": "float16"}, None),
                           ({"model": "a" * 64}, r"model \(fingerprint aaaaaaaaaaaa\)"),
                           ({"input": "x / 255"}, r"input \(x / 255\) than new \(raw\)"),
                           ({"colours": "bgr"}, r"colours \(bgr\)"),
                           ({"image_size": 112}, r"image size \(112\)"), ({"output": "norm"}, "output"), ({"dim": 4}, "dim"),
                           ({"model": "a" * 64, "source": "vectors.csv"}, None)]:
        save_array(tmp_path / "f.npy", np.ones((3, 5)), {"model": model.fingerprint} | describe(model) | changed)
        if words is None:
            check_same_model(tmp_path / "f.npy", "new", about)
        else:
            with pytest.raises(UserError, match=f"f.npy was computed with another {words}"):
                check_same_model(tmp_path / "f.npy", "new", about)
    check_same_model(tmp_path / "f.npy", "new", {})


def test_compare_refuses_features_of_another_model(tmp_path, monkeypatch):
    found = two_galleries(tmp_path)
    for name, model in (("old", "o"), ("new", "n"), ("other", "x")):
        save_array(tmp_path / f"{name}.npy", found["old" if name == "old" else "new"], {"model": model * 64, "dim": 5})
        save_array(tmp_path / f"{name}_train.npy", np.random.default_rng(0).normal(size=(30, 5)), {"model": model * 64, "dim": 5})
    for old, new, refused in (("other", "new", "old"), ("old", "other", "new")):
        words = ["-d", tmp_path, "--old", f"old={tmp_path / 'old.npy'}", "--new", f"new={tmp_path / 'new.npy'}",
                 "--old-features", tmp_path / f"{old}_train.npy", "--new-features", f"new={tmp_path / f'{new}_train.npy'}",
                 "--out", tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, words)])
        message = rf"other_train.npy was computed with another model \(fingerprint x+\) than {refused}"
        with pytest.raises(UserError, match=message):
            compare.main()


def quantiles_of_norms(embeddings: np.ndarray) -> list:
    """Of the images, without their mirror images."""
    rows = embeddings[0] if embeddings.ndim == 3 else embeddings
    return pytest.approx(np.quantile([np.sqrt((row.astype(float) ** 2).sum()) for row in rows], [0.001, 0.5, 0.999]), abs=1e-5)


def test_rows_of_norm_1_are_normalised_in_half_precision_too():
    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    assert version_features.norm_facts(np.linalg.norm(unit.astype(np.float32), axis=1))["normalised"]
    assert not version_features.norm_facts(np.array([1.0, 1.0, 1.02]))["normalised"]


def test_kept_embeddings_say_which_model_made_them(tmp_path):
    found = two_galleries(tmp_path)
    evaluation = read_evaluation(tmp_path, "IJBC")
    save_array(tmp_path / "e.npy", found["new"], {"model": "f" * 64, "images": 42, "dim": 5, "input": "raw"})
    np.save(tmp_path / "plain.npy", found["new"])
    versions_ = [read_features(Version.parse(f"new={tmp_path}/{name}.npy")[0], evaluation, Namespace())
                 for name in ("e", "plain")]
    norms = {"norm": quantiles_of_norms(found["new"]), "normalised": False}
    assert [version.about for version in versions_] == [{"fingerprint": "f" * 64, "dim": 5, "input": "raw"} | norms, norms]


def test_every_flag_of_a_model_reaches_it(tmp_path, monkeypatch):
    """Each version is opened as its own network; its embeddings are those of all images, kept in the folder named."""
    found, opened, embedded = two_galleries(tmp_path), [], []

    def open_model(*arguments):
        opened.append(arguments)
        return Namespace(fingerprint="f", dim=5, image_size=16, precision="float16", input=RAW, output="", notes=["note"])

    def embeddings(model, images, *more):
        embedded.append((len(images), *more))
        return found["new"]

    monkeypatch.setattr(version_names, "open_model", open_model)
    monkeypatch.setattr(version_features, "embeddings", embeddings)
    args = Namespace(devices=[torch.device("cpu")], fp16=True, pixel_scale=128.0, embeddings=Path("kept"), batch_size=7,
                     workers=3, force=True)
    version, = Version.parse("mine=some/model.pt:r34,bgr")
    features = read_features(version, read_evaluation(tmp_path, "IJBC"), args)
    options = InputOptions(bgr=True, scale=128.0)
    assert version.name == "mine" and opened == [("some/model.pt", "r34", args.devices, True, options)]
    assert embedded == [(42, Path("kept"), 7, 3, True)]
    assert features.about == {"fingerprint": "f", "dim": 5, "image_size": 16, "input": "raw", "colours": "rgb", "output": "",
                              "precision": "float16", "similarity": "cosine", "normalised": False,
                              "norm": quantiles_of_norms(found["new"])}
    assert features.gallery[:4].round(5).tolist() == np.eye(5)[[1, 2, 3, 0]].tolist() and features.query is features.gallery


def test_each_training_has_its_own_map_and_views(tmp_path):
    """Two trainings whose features of the training images are the old ones in another order of the columns: a map of each."""
    found, draw = two_galleries(tmp_path), np.random.default_rng(0)
    old = draw.normal(size=(60, 5)).astype(np.float32)
    orders = [np.array([1, 0, 2, 3, 4]), np.array([0, 1, 2, 4, 3])]
    np.save(tmp_path / "old.npy", found["old"])
    np.save(tmp_path / "old_train.npy", old)
    for k, order in enumerate(orders):
        np.save(tmp_path / f"new{k}.npy", found["new"][..., order] * (k + 1))
        np.save(tmp_path / f"new{k}_train.npy", old[:, order] + draw.normal(0, 1e-3, old.shape))
    args = Namespace(old=f"old={tmp_path}/old.npy", new=[f"new={tmp_path}/new0.npy,{tmp_path}/new1.npy"], paragon=None,
                     maps=["Procrustes"], forward=False, fitted=[], old_features=f"{tmp_path}/old_train.npy",
                     new_features=[f"new={tmp_path}/new0_train.npy,{tmp_path}/new1_train.npy"])
    made = Versions(args, read_evaluation(tmp_path, "IJBC"))
    for k, order in enumerate(orders):
        plain, mapped = made.trainings["new"][k], made.trainings["new+Procrustes"][k]
        assert mapped.query is plain.query and mapped.gallery is plain.gallery
        back = np.argsort(order)                # its column j is column back[j] of the new features
        assert mapped.on_old[0] is made.trainings["old"][0].gallery
        np.testing.assert_allclose(mapped.on_old[1], plain.query[:, back], atol=0.02 * np.abs(plain.query).max())


def test_the_same_model_under_two_names_is_a_warning(tmp_path):
    found = two_galleries(tmp_path)
    for name, rows in (("old", found["old"]), ("copy", found["old"]), ("other", found["new"])):
        np.save(tmp_path / f"{name}.npy", rows)
    args = Namespace(old=f"old={tmp_path}/old.npy", new=[f"{name}={tmp_path}/{name}.npy" for name in ("copy", "other")],
                     paragon=None, maps=[], forward=False, fitted=[], old_features=None, new_features=[])
    made = Versions(args, read_evaluation(tmp_path, "IJBC"))
    assert made.warnings == ["copy is the same model as old: their first rows are equal"]


def test_a_training_that_is_given_twice_is_refused(tmp_path):
    """By two names of its file, by a copy, and by a copy with less precision: it would look as if seeds made no difference."""
    found = two_galleries(tmp_path)
    np.save(tmp_path / "old.npy", found["old"])
    np.save(tmp_path / "new.npy", found["new"])
    np.save(tmp_path / "copy.npy", (3 * found["new"]).astype(np.float16))
    for first, second in ((f"{tmp_path}/new.npy", f"{tmp_path}/./new.npy"), (f"{tmp_path}/copy.npy", f"{tmp_path}/new.npy")):
        args = Namespace(old=f"old={tmp_path}/old.npy", new=[f"new={first},{second}"], paragon=None, maps=[], forward=False,
                         fitted=[], old_features=None, new_features=[])
        with pytest.raises(UserError, match="of new have the same features"):
            Versions(args, read_evaluation(tmp_path, "IJBC"))
