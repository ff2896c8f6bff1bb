"""The commands of docs/upgrade.md, "The gallery itself", with two small models and 200 faces."""

import re
import shlex
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


def made(folder: Path) -> None:
    """GALLERY, FACES, NEW.onnx, QUERY.jpg and compare_result/upgrade.json in ``folder``."""
    draw = np.random.default_rng(1)
    colours = draw.integers(0, 256, (COUNT, 4, 4, 3)).astype(np.uint8)
    faces = np.repeat(np.repeat(colours, 4, 1), 4, 2)
    people, vectors = People(COUNT), []
    for name, dim in (("OLD", 24), ("NEW", 32)):
        weight = draw.standard_normal((dim, 48)).astype(np.float32)
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
