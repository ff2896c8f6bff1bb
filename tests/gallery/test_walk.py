"""The commands of docs/upgrade.md on the gallery, with two small models and 200 faces."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx_toys
import pytest
import torch
from gallery_toys import People, fill, write_upgrade
from pages import commands
from photo_toys import encoded
from processes import run_script

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
COUNT = 200


def weights() -> list[np.ndarray]:
    """The matrices of the old and the new model, [d, 48]: from the mean colours of 4 x 4 cells to an embedding."""
    draw = np.random.default_rng(4)
    return [draw.standard_normal((dim, 48)).astype(np.float32) for dim in (24, 32)]


def made(folder: Path) -> None:
    """GALLERY, FACES, NEW.onnx, QUERY.jpg and compare_result/upgrade.json in ``folder``."""
    draw = np.random.default_rng(1)
    colours = draw.integers(0, 256, (COUNT, 4, 4, 3)).astype(np.uint8)
    faces = np.repeat(np.repeat(colours, 4, 1), 4, 2)
    people, vectors = People(COUNT), []
    for name, weight in zip(("OLD", "NEW"), weights(), strict=True):
        dim = len(weight)
        onnx_toys.write(folder / f"{name}.onnx", [], {"W": weight, "b": np.zeros(dim)}, outputs={
            "embedding": (np.float32, ["N", dim])})
        cells = faces.astype(np.float64).reshape(COUNT, 4, 4, 4, 4, 3).mean((2, 4)) / 127.5 - 1
        views = [side.transpose(0, 3, 1, 2).reshape(COUNT, -1) @ weight.T for side in (cells, cells[:, :, ::-1])]
        vectors.append(((views[0] + views[1]) / 2).astype(np.float32))
    people.old, people.new = vectors
    people.old_query, people.new_query = vectors
    people.map = np.linalg.lstsq(people.new, people.old, rcond=None)[0].astype(np.float32)
    (folder / "compare_result").mkdir()
    (folder / "FACES").mkdir()
    (folder / "GALLERY").mkdir()
    write_upgrade(folder / "compare_result", people)
    for entry, face in zip(people.ids(), faces, strict=True):
        (folder / f"FACES/{entry}.jpg").write_bytes(cv2.imencode(".png", face[:, :, ::-1])[1].tobytes())
    (folder / "QUERY.jpg").write_bytes(encoded(faces[7][:, :, ::-1], ".png"))
    fill("lancedb", str(folder / "GALLERY"), people.ids(), people.old)
    torch.set_num_threads(1)


def test_the_commands_of_the_page(tmp_path):
    pytest.importorskip("lancedb", reason="pip install -r requirements-stores.txt")
    made(tmp_path)
    said = []
    for line in commands("docs/upgrade.md", "The gallery itself"):
        words = shlex.split(line)
        done = run_script(ROOT / words[1], *words[2:], cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    plan, before, first, between, status, back, _, end = said
    assert "200 have an image or vector, 0 have none" in plan and "nothing was written" in plan
    assert re.search(r"p0007 \|\s+old \|.*yes", before) and re.search(r"p0007 \|\s+(old|new) \|.*yes", between)
    assert "60 entries moved; now 140 are old and 60 are new" in first
    assert "gallery: 140 old entries, gallery__new: 60 new ones (30.0%)" in status
    assert "60 entries have their old vectors again" in back and "the gallery is gallery__new" in end


def write_comparison(folder: Path) -> None:
    """LABELS, OLD_FEATURES, NEW_FEATURES, OLD.npy and NEW.npy of the models of ``made``: features of noisy faces."""
    draw = np.random.default_rng(2)
    faces, images = draw.uniform(-1, 1, (2 * COUNT, 48)), draw.uniform(-1, 1, (600, 48))
    probe = draw.integers(0, 2 * COUNT, 600)
    pairs = np.c_[draw.integers(0, COUNT, 8000), draw.integers(0, 600, 8000)]
    pairs[:600] = np.c_[probe % COUNT, np.arange(600)]
    for place in ("LABELS", "OLD_FEATURES", "NEW_FEATURES"):
        (folder / place).mkdir()
    for name, rows in (("gallery_label", np.arange(COUNT)), ("probe_label", probe),
                       ("pairs", np.c_[pairs, pairs[:, 0] == probe[pairs[:, 1]]])):
        np.save(folder / f"LABELS/{name}.npy", rows)
    for name, matrix in zip(("OLD", "NEW"), weights(), strict=True):
        for side, labels in (("gallery", np.arange(COUNT)), ("probe", probe)):
            seen = faces[labels] + 0.3 * draw.standard_normal((len(labels), 48))
            np.save(folder / f"{name}_FEATURES/{side}.npy", (seen @ matrix.T).astype(np.float32))
        np.save(folder / f"{name}.npy", (images @ matrix.T).astype(np.float32))


def test_the_commands_of_the_page_on_a_gallery_without_its_images(tmp_path, monkeypatch, capsys):
    """In this process; with few bootstrap samples."""
    pytest.importorskip("lancedb", reason="pip install -r requirements-stores.txt")
    made(tmp_path)
    write_comparison(tmp_path)
    monkeypatch.chdir(tmp_path)
    said = []
    for line in commands("docs/upgrade.md", "The gallery without its images"):
        words = shlex.split(line) + ["--draws", "20", "--backfill", "2"] * ("compare.py" in line)
        monkeypatch.setattr(sys, "argv", [str(ROOT / words[1]), *words[2:]])
        runpy.run_path(str(ROOT / words[1]), run_name="a page")["main"]()
        said.append(capsys.readouterr().out)
    page, plan, before, first, after, end = said
    assert "new+ridge-forward" in page and "no image is needed" in plan and "FAR 0.01 " in plan and "nothing was written" in plan
    assert "200 entries moved; now 0 are old and 200 are mapped" in first and "the gallery is gallery__new_ridge_forward" in end
    tables = [[line.split("|")[1:] for line in text.splitlines() if "p0007" in line] for text in (before, after)]
    assert tables[0] == tables[1] and tables[0][0][-2].strip() == "yes"
