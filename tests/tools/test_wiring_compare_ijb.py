"""An upgrade compared on an IJB folder: two galleries, several images a template, embeddings in files or by models."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ijb_toys import two_galleries

from tools.compare import compare


@pytest.fixture(scope="module")
def ijb(tmp_path_factory) -> dict:
    """New queries on the old gallery of an IJB folder; the new model's embeddings come from a result of a cross test."""
    folder = tmp_path_factory.mktemp("ijb")
    views = two_galleries(folder)
    np.save(folder / "old.npy", views["old"])
    names = [f"embs{view}{side}" for side in ("", "_old") for view in ("", "_f")]
    np.savez(folder / "new.npz", **dict(zip(names, [*views["new"], *views["old"]], strict=True)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "draw_pictures", lambda report, out: {})
        words = ["compare.py", "-d", folder, "--old", f"old={folder / 'old.npy'}", "--new", f"new={folder / 'new.npz'}",
                 "--backfill", 4, "--orders", 1, "--draws", 0, "--out", folder / "out"]
        patch.setattr(sys, "argv", [*map(str, words)])
        compare.main()
    return json.loads((folder / "out/compare.json").read_text())


def test_two_galleries_are_averaged_and_all_media_of_a_template_are_in_it(ijb):
    """As in the evaluator's own test: TPIR 5 of 10 and 15 of 20, top-1 9 + 19 of 30; nobody is found by the old model."""
    cell = ijb["matrix"]["new"]["old"]
    assert (cell["TPIR@1e-1"]["value"], cell["top-1"]["value"]) == pytest.approx((.625, 28 / 30))
    assert ijb["matrix"]["old"]["old"]["top-1"]["value"] == 0 == ijb["matrix"]["old"]["new"]["top-1"]["value"]
    row, = ijb["upgrades"]["new"]["threshold"]["1:N"]
    assert row["threshold"] == [0, 0] and row["mixed"] == pytest.approx((9 / 10 + 19 / 20) / 2)     # only who is first is found
    assert row["new threshold"] == pytest.approx([.55, .45]) and row["of"] == 22 + 12
    assert ijb["evaluation"] | {"name": ""} == {
        "name": "", "negatives": {"1:1": 98, "1:N": 12}, "subjects": 6, "gallery rows": {"1:1": 4, "1:N": 4}, "probes": 32,
        "gallery images": {"1:1": 10, "1:N": 10},
        "genuine pairs": 30}


def test_the_least_certain_templates_are_re_embedded_first(ijb):
    """Images done after each of the four templates, which have 1, 2, 3 and 4: the sums show the order."""
    done = {order: found["images"]["1:N"] for order, found in ijb["upgrades"]["new"]["backfill"].items() if order != "random"}
    assert done == {"lowest detector score first": [0, 4, 6, 9, 10],            # mean scores 0.9, 0.5, 0.7, 0.3
                    "lowest number of media first": [0, 1, 3, 7, 10],           # media 1, 1, 3, 2
                    "lowest norm of the old feature first": [0, 3, 4, 8, 10]}   # norms 2, 4, 1, 3


def test_the_command_line_gives_the_versions_their_flags(tmp_path, monkeypatch):
    words = ["compare.py", "--old", "old=a.pt:r18", "--new", "new=b.pt:r50", "--fp16", "--pixel-scale", "128", "-b", "7", "-F",
             "--workers", "3", "--device", "cpu", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    args = compare.parse_arguments()
    assert (args.fp16, args.pixel_scale, args.batch_size, args.workers, args.force) == (True, 128, 7, 3, True)
    assert args.devices == [torch.device("cpu")] and args.embeddings == tmp_path / "embeddings"
    monkeypatch.setattr(sys, "argv", [*words[:5], "--device", "cpu", "--embeddings", "kept"])
    args = compare.parse_arguments()
    assert (args.fp16, args.pixel_scale, args.force, args.embeddings) == (False, 127.5, False, Path("kept"))
    assert (args.draws, args.seed, args.part, args.backfill, args.orders) == (1000, 0, .8, 10, 5)
