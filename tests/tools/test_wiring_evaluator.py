"""The evaluator's command line from flags to figures, on embeddings whose templates and ranks are worked out by hand.

Old and new embeddings differ in every template, so that a swapped side, a view left out or an ignored flag changes a figure.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ijb_toys import two_galleries, write_meta

from evaluation.formats import percent, rate
from evaluation.identification import one_to_many
from evaluation.inputs import InputOptions
from tools.ijbc_eval import ijbc_eval, report
from utils.errors import UserError

# One row per image: what the network gave for it and for its mirror image.
NEW = np.array([[8, 0, 4], [0, 1, 3], [0, 6, 1], [1, 0, 0], [0, 1, 0]], np.float32)
NEW_MIRRORED = np.array([[4, 0, -4], [0, 1, -3], [0, 6, -1], [1, 0, 0], [0, 1, 0]], np.float32)
OLD = np.array([[0, 0, 2], [0, 3, 3], [0, 0, 2], [4, 0, 3], [0, 0, 1]], np.float32)
OLD_MIRRORED = OLD
# Template 1 is a medium of two images (scores 0.5 and 1) and one of a single image (0.25); templates 2 and 3 are one image.
IMAGES = [(1, 7, .5), (1, 7, 1.0), (1, 8, .25), (2, 7, .8), (3, 9, .8)]
# new: 1 = (0.5 (12, 0, 0) + (0, 2, 0)) / 2 + 0.25 (0, 12, 0) = (3, 4, 0),  2 = (1, 0, 0),  3 = (0, 1, 0)
# old: 1 = (0.5 (0, 0, 4) + (0, 6, 6)) / 2 + 0.25 (0, 0, 4) = (0, 3, 5),    2 = (4, 0, 3),  3 = (0, 0, 1)
PAIRS = [(1, 3, 1), (3, 1, 0), (2, 1, 0), (1, 2, 0)]


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder; gives the printed text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ijbc_eval, "plot_results", lambda *_: [])

    def call(*flags) -> str:
        monkeypatch.setattr(sys, "argv", ["ijbc_eval.py", "-d", "data", *map(str, flags)])
        ijbc_eval.main()
        return capsys.readouterr().out
    return call


@pytest.fixture
def three(tmp_path) -> Path:
    """The three templates, and a result file "both.npz" with all their embeddings and "self.npz" with the new ones."""
    write_meta(tmp_path / "data", IMAGES, PAIRS, {"G1": [(1, 10)], "G2": [(2, 11)]}, [(3, 10)])
    new, old = {"embs": NEW, "embs_f": NEW_MIRRORED}, {"embs_old": OLD, "embs_f_old": OLD_MIRRORED}
    np.savez(tmp_path / "both.npz", **new, **old)
    np.savez(tmp_path / "self.npz", **new)
    return tmp_path


def result(name: str) -> tuple[dict, dict]:
    """(report, arrays) of a result in the default folder."""
    with np.load(f"ijbc_result/{name}.npz") as arrays:
        return json.loads(Path(f"ijbc_result/{name}.json").read_text()), dict(arrays)


# --- templates and sides -----------------------------------------------------------------------------------

def test_a_template_is_the_sum_over_media_of_means_of_both_views_weighted_by_the_detector(evaluate, three):
    evaluate("-R", "self.npz")
    assert result("self_IJBC_11")[1]["scores"][0] == pytest.approx([4 / 5, 4 / 5, 3 / 5, 3 / 5])


def test_the_first_column_of_the_pairs_is_the_old_models_side(evaluate, three):
    evaluate("-R", "both.npz")
    found, arrays = result("both_IJBC_11")
    old, new = np.array([[0, 3, 5], [4, 0, 3], [0, 0, 1]]), np.array([[3, 4, 0], [1, 0, 0], [0, 1, 0]])
    cosine = old @ new.T / np.outer(np.linalg.norm(old, axis=1), np.linalg.norm(new, axis=1))
    assert arrays["scores"][0] == pytest.approx([cosine[0, 2], cosine[2, 0], cosine[1, 0], cosine[0, 1]], abs=1e-6)
    assert arrays["scores"][0] == pytest.approx([3 / 34 ** .5, 0, 12 / 25, 0], abs=1e-6)
    assert found["settings"]["kind"] == "cross" and (found["1:1"]["same"], found["1:1"]["different"]) == (1, 3)
    assert (arrays["far"][0][-1], arrays["tar"][0][-1], arrays["frr"][0][-1]) == (1, 1, 0)      # FAR 1 accepts everything


def test_each_of_the_eight_modes_leaves_out_what_its_name_says(evaluate, three):
    evaluate("-R", "self.npz", "-B")
    found, arrays = result("self_IJBC_11_bunch")
    scores = dict(zip(found["modes"], arrays["scores"], strict=True))
    assert [str(name) for name in arrays["names"]] == [f"self IJBC {mode}" for mode in found["modes"]]

    def cosine(one, two) -> float:
        return np.dot(one, two) / np.linalg.norm(one) / np.linalg.norm(two)

    both, single = NEW.astype(float) + NEW_MIRRORED, NEW.astype(float)
    for mode, views, weights in (("N0D1F1", both, [.5, 1, .25]), ("N0D0F1", both, [1, 1, 1]), ("N0D1F0", single, [.5, 1, .25]),
                                 ("N0D0F0", single, [1, 1, 1]), ("N1D1F1", both, [.5, 1, .25]), ("N1D0F0", single, [1, 1, 1])):
        rows = views[:3] / (np.linalg.norm(views[:3], axis=1, keepdims=True) if mode[1] == "1" else 1)
        a, b, c = rows * np.array(weights)[:, None]
        assert scores[mode][[0, 2]] == pytest.approx([cosine((a + b) / 2 + c, x) for x in ((0, 1, 0), (1, 0, 0))]), mode
    evaluate("-R", "both.npz", "-B")                            # the old side has the same mode
    crossed = dict(zip(scores, result("both_IJBC_11_bunch")[1]["scores"], strict=True))
    assert crossed["N0D0F1"][0] == pytest.approx(cosine((0, 3, 9), (0, 1, 0)))      # ((0, 0, 4) + (0, 6, 6)) / 2 + (0, 0, 4)


# --- 1:N ---------------------------------------------------------------------------------------------------

def test_galleries_are_the_old_models_and_their_rates_are_averaged(evaluate, tmp_path):
    """G1: two of 22 may be accepted, so the threshold is the second largest, 0.55: 5 of 10 are above it.  G2: one of 12,
    0.45: 15 of 20.  One probe of each gallery is mistaken for the other person: 9 + 19 of 30 mated probes, of 32 in all."""
    views = two_galleries(tmp_path / "data")
    np.savez("both.npz", embs=views["new"][0], embs_f=views["new"][1], embs_old=views["old"][0], embs_f_old=views["old"][1])
    out = evaluate("-R", "both.npz", "-N")
    found = result("both_IJBC_1N")[0]["1:N"]
    first, second = (found["galleries"][name] for name in ("G1", "G2"))
    assert (first["mated"], first["nonmated"], second["mated"], second["nonmated"]) == (10, 22, 20, 12)
    assert (first["threshold"][3], second["threshold"][3]) == pytest.approx((.55, .45))
    assert (first["TPIR"][3], second["TPIR"][3], found["TPIR"][3]) == pytest.approx((.5, .75, .625))
    assert (first["top"]["1"], second["top"]["1"], found["top"]["1"]) == pytest.approx((9 / 10, 19 / 20, 28 / 30))
    assert found["top_of_all_probes"]["1"] == pytest.approx(28 / 32) and (found["mated"], found["probes"]) == (30, 32)
    cells = next([cell.strip() for cell in line.split("|")] for line in out.splitlines() if "| mean" in line)
    assert cells[6:9] == ["93.33", "100.00", "100.00"] and cells[9:13] == ["n/a", "n/a", "n/a", "62.50"]
    np.savez("self.npz", embs=views["new"][0], embs_f=views["new"][1])
    evaluate("-R", "self.npz", "-N")
    assert result("self_IJBC_1N")[0]["1:N"]["top"]["1"] < .2             # the new model stores everybody elsewhere


def test_the_search_runs_on_the_first_device(evaluate, three, monkeypatch):
    seen = []
    monkeypatch.setattr(ijbc_eval, "find_devices", lambda name: [f"{name}:0", f"{name}:1"])
    monkeypatch.setattr(ijbc_eval, "one_to_many", lambda gallery, query, protocol, device: (
        seen.append(device) or one_to_many(gallery, query, protocol)))
    evaluate("-R", "both.npz", "-N", "--device", "cuda")
    assert seen == ["cuda:0"]


# --- flags -------------------------------------------------------------------------------------------------

def test_roc_public_reads_a_figure_where_exact_has_none(evaluate, three):
    """Three impostor pairs support no FAR below 1/3; the nearest point of the public curve is FAR 0, where TAR is 1."""
    assert "n/a" in evaluate("-R", "both.npz")
    exact = result("both_IJBC_11")[0]
    assert exact["1:1"]["TAR"] == [None] * 6 and exact["settings"]["roc"] == "exact"
    assert "n/a" not in evaluate("-R", "both.npz", "--roc", "public")
    public = result("both_IJBC_11")[0]
    assert public["1:1"]["TAR"] == [1] * 6 and public["settings"]["roc"] == "public"


def test_embeddings_and_labels_are_kept_under_their_own_names(evaluate, three):
    evaluate("-R", "both.npz", "-E", "-L")
    arrays = result("both_IJBC_11")[1]
    for name, kept in {"embs": NEW, "embs_f": NEW_MIRRORED, "embs_old": OLD, "embs_f_old": OLD_MIRRORED}.items():
        assert np.array_equal(arrays[name], kept), name
    assert arrays["label"].tolist() == [True, False, False, False]
    evaluate("-R", "both.npz", "-E", "-L", "-N")
    assert "label" not in result("both_IJBC_1N")[1]
    evaluate("-R", "both.npz")
    assert not {"embs", "label"} & set(result("both_IJBC_11")[1])


def test_kept_embeddings_without_a_direction_or_of_another_kind_are_refused(evaluate, three):
    """A probe without a cosine would count as one without a mate, one of zeros as unlike everybody."""
    with np.load("both.npz") as arrays:
        both = {name: array.copy() for name, array in arrays.items()}
    for value, row in ((np.nan, 0), (0, slice(None)), (1e25, 0)):
        for key in ("embs", "embs_f_old"):
            kept = both | {key: both[key].copy()}
            kept[key][2, row] = value
            np.savez("corrupt.npz", **kept)
            with pytest.raises(UserError, match="corrupt.npz has NaN, infinity or only zeros for 3.png; embed"):
                evaluate("-R", "corrupt.npz")
    for change, sentence in ((lambda rows: (50 * rows + 128).astype(np.uint8), "codes without a sign have an offset"),
                             (lambda rows: rows.astype(str), "expected float features"),
                             (lambda rows: rows[:, 0], "found .*5,"), (lambda rows: rows[:, None], "found .*5, 1, ")):
        np.savez("corrupt.npz", **(both | {key: change(array) for key, array in both.items() if key.startswith("embs")}))
        with pytest.raises(UserError, match=sentence):
            evaluate("-R", "corrupt.npz")


class FakeModel:
    """Stands for a model; its name says which embeddings it gives."""

    dim, image_size, precision = 3, 112, "float32"

    def __init__(self, *arguments):
        self.arguments, self.fingerprint = arguments, f"of {arguments[0]}"
        self.input, self.output, self.notes = arguments[4].chosen(None), "", [f"{arguments[0]} is given something"]


@pytest.fixture
def opened(monkeypatch) -> list:
    """Grows by (model's arguments, embeddings' arguments) for each model that the command line asks for."""
    calls = []

    def embed(model, images, *more):
        calls.append((model.arguments, len(images), *more))
        return np.stack([NEW, NEW_MIRRORED] if "new" in model.arguments[0] else [OLD, OLD_MIRRORED])
    monkeypatch.setattr(ijbc_eval, "open_model", FakeModel)
    monkeypatch.setattr(ijbc_eval, "embeddings", embed)
    return calls


def test_every_flag_of_a_model_reaches_it(evaluate, three, opened):
    evaluate("-m", "a/new/model.pt", "-net", "r100", "-m_old", "b/old/model.pt", "-old_net", "mbf", "--pixel-scale", 100,
             "--input", "bgr", "--old-input", "input=raw",
             "--fp16", "-b", 7, "--workers", 3, "-F", "--device", "cpu", "--out", "ijbc_result")
    cpu, folder = [torch.device("cpu")], Path("ijbc_result/embeddings")
    assert opened == [(("a/new/model.pt", "r100", cpu, True, InputOptions(bgr=True, scale=100)), 5, folder, 7, 3, True),
                    (("b/old/model.pt", "mbf", cpu, True, InputOptions((0.,), (1.,), scale=100)), 5, folder, 7, 3, True)]
    found, arrays = result("new_on_old_IJBC_11")
    assert arrays["scores"][0] == pytest.approx([3 / 34 ** .5, 0, 12 / 25, 0], abs=1e-6)     # the old model enrols
    new, old = found["settings"]["new"], found["settings"]["old"]
    assert (new["file"], new["network"], new["fingerprint"]) == ("a/new/model.pt", "r100", "of a/new/model.pt")
    assert (old["file"], old["network"], old["fingerprint"]) == ("b/old/model.pt", "mbf", "of b/old/model.pt")
    assert found["settings"]["pixel_scale"] == 100 and found["settings"]["protocol"] == "1:1"


def test_defaults_are_those_of_the_documents(evaluate, three, opened):
    evaluate("-m", "new.pt", "--device", "cpu")
    (file, network, _, fp16, options), images, folder, batch, _, force = opened[0]
    assert (file, network, fp16, options, batch, force) == ("new.pt", "r50", False, InputOptions(), 128, False)
    assert len(opened) == 1
    found, arrays = result("new_IJBC_11")
    assert arrays["scores"][0] == pytest.approx([4 / 5, 4 / 5, 3 / 5, 3 / 5]) and found["settings"]["kind"] == "self"


def test_a_model_that_guesses_is_doubted_and_its_input_is_printed(evaluate, three, opened, monkeypatch):
    said = evaluate("-m", "new.pt", "--device", "cpu")
    assert "new.pt is given something" in said and "hardly more than guessing" not in said
    monkeypatch.setattr(ijbc_eval, "embeddings", lambda model, images, *more: np.ones((2, len(images), 3), np.float32))
    assert "warning: the AUC is 50.00 %, hardly more than guessing: is the input" in evaluate("-m", "new.pt", "--device", "cpu")


# --- tables and pictures -----------------------------------------------------------------------------------

def test_a_row_of_the_table_has_each_rates_tar_and_then_the_area():
    figures = {"FAR": [1e-2, 1e-1], "TAR": [.25, .5], "auc": .75, "different": 100}
    text = report.table_one_to_one({"mine": figures})
    header, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|"))
    assert header[1:] == ["1e-2", "1e-1", "AUC"] and row == ["mine", "25.00", "50.00", "75.00"]
    assert (rate(1e-6), rate(1.0), percent(.12345), percent(None)) == ("1e-6", "1", "12.35", "n/a")


def test_every_curve_is_drawn_over_its_own_rate(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(report, "plot", lambda file, lines, *labels: drawn.update({file.name: (lines, labels)}))
    arrays = {"names": np.array(["a"]), **{key: np.array([[k, k]]) for k, key in enumerate(
        ("far", "tar", "frr", "fpir", "tpir", "ranks", "cmc"))}}
    report.plot_results([({"settings": {"protocol": p}}, arrays) for p in ("1:1", "1:N")], tmp_path / "x")
    shown = {name: (lines[0][1][0], lines[0][2][0], labels[0]) for name, (lines, labels) in drawn.items()}
    assert shown == {"x_roc.png": (0, 1, "false accept rate"), "x_det.png": (0, 2, "false accept rate"),
                     "x_tpir.png": (3, 4, "false positive identification rate"), "x_cmc.png": (5, 6, "rank")}
