"""Versions of a model: which arguments open one, and which embeddings become its features."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from ijb_toys import two_galleries

from evaluation import version_names, versions
from evaluation.evaluation_set import read_evaluation
from evaluation.version_names import Version
from evaluation.versions import read_features


def test_every_flag_of_a_model_reaches_it(tmp_path, monkeypatch):
    """Each version is opened as its own network; its embeddings are those of all images, kept in the folder named."""
    found, opened, embedded = two_galleries(tmp_path), [], []

    def open_model(*arguments):
        opened.append(arguments)
        return Namespace(fingerprint="f", image_size=16, precision="float16")

    def embeddings(model, images, *more):
        embedded.append((len(images), *more))
        return found["new"]

    monkeypatch.setattr(version_names, "open_model", open_model)
    monkeypatch.setattr(versions, "embeddings", embeddings)
    args = Namespace(devices=[torch.device("cpu")], fp16=True, pixel_scale=128.0, embeddings=Path("kept"), batch_size=7,
                     workers=3, force=True)
    version, = Version.parse("mine=some/model.pt:r34")
    features = read_features(version, read_evaluation(tmp_path, "IJBC"), args)
    assert version.name == "mine" and opened == [("some/model.pt", "r34", args.devices, True, 128.0)]
    assert embedded == [(42, Path("kept"), 7, 3, True)]
    assert features.about == {"fingerprint": "f", "image_size": 16, "precision": "float16"}
    assert features.gallery[:4].round(5).tolist() == np.eye(5)[[1, 2, 3, 0]].tolist() and features.query is features.gallery
