"""Every flag of the evaluator through its own command line, on six subjects and tiny networks."""

import json
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from processes import run_script
from toy import write_ijb

from backbones import get_model
from backbones.weights import fingerprint, load_state
from evaluation import embed
from evaluation.protocol import read_images, read_pairs
from evaluation.templates import MODES, template_features
from evaluation.verification import one_to_one
from evaluation.view_files import save_view
from tools.ijbc_eval import ijbc_eval
from utils.errors import UserError

SCRIPT = Path(ijbc_eval.__file__)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data/IJBC and the mbf models new/model.pt, old/model.pt (8-d) and wide/model.pt (12-d)."""
    folder = tmp_path_factory.mktemp("evaluator")
    write_ijb(folder / "data")
    for seed, (name, features) in enumerate((("new", 8), ("old", 8), ("wide", 12))):
        torch.manual_seed(seed)
        (folder / name).mkdir()
        model = get_model("mbf", num_features=features, image_size=16)
        torch.save(model.state_dict(), folder / name / "model.pt")
    return folder


@pytest.fixture
def evaluate(place, tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def call(*flags: str, data: Path = place / "data") -> str:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "-d", str(data), "--workers", "0", *map(str, flags)])
        ijbc_eval.main()
        text = capsys.readouterr().out
        assert text.splitlines()[-1].startswith("wrote /")          # wherever it was started
        return text

    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def flags(place) -> dict[str, list[str]]:
    new = [f"-m={place / 'new/model.pt'}", "-net=mbf"]
    return {"self": new, "cross": [*new, f"-m_old={place / 'old/model.pt'}", "-old_net=mbf"]}


@pytest.fixture
def embedded(monkeypatch) -> list:
    """The files of embeddings that were really computed."""
    calls, real = [], embed.write_embeddings
    monkeypatch.setattr(embed, "write_embeddings", lambda *args: calls.append(args[0]) or real(*args))
    return calls


def result(name: str) -> dict:
    return json.loads(Path(f"ijbc_result/{name}.json").read_text())


def test_self_and_cross_one_to_one(evaluate, flags, place, embedded):
    out = evaluate(*flags["self"])
    assert "1:1, TAR in % at FAR" in out and "n/a (FAR < 1/135)" in out
    report = result("new_IJBC_11")
    assert report["settings"]["kind"] == "self" and report["settings"]["protocol"] == "1:1"
    assert report["settings"]["new"]["fingerprint"] and report["settings"]["old"] is None
    assert report["1:1"]["FAR"] == [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert report["1:1"]["TAR"][:4] == [None] * 4 and 0 <= report["1:1"]["TAR"][5] <= 1
    assert (report["1:1"]["same"], report["1:1"]["different"]) == (18, 135)

    evaluate(*flags["cross"])
    report = result("new_on_old_IJBC_11")
    assert report["settings"]["kind"] == "cross"
    assert report["settings"]["old"]["file"].endswith("old/model.pt")
    assert len(embedded) == 2                                       # the new model's were kept
    # The same by hand: column A from the old model's embeddings, column B from the new one's.
    images = read_images(place / "data", "IJBC")
    new, old = (template_features(np.load(file), images) for file in embedded)
    pairs = read_pairs(place / "data", "IJBC", images)
    cosines = [old[a] @ new[b] for a, b in zip(pairs.enrol, pairs.verify, strict=True)]
    with np.load("ijbc_result/new_on_old_IJBC_11.npz") as arrays:
        np.testing.assert_allclose(arrays["scores"][0], cosines, atol=1e-6)
        assert "label" not in arrays and "embs" not in arrays
    assert report["1:1"]["auc"] == pytest.approx(one_to_one(old, new, pairs)[0]["auc"])
    for kind in ("roc", "det"):
        assert cv2.imread(f"ijbc_result/new_IJBC_11_{kind}.png").std() > 1      # a picture with something in it


def test_one_to_many(evaluate, flags):
    out = evaluate(*flags["cross"], "-N")
    assert all(word in out for word in ("top-1", "TPIR@1e-2", "G1", "G2", "mixed", "mean"))
    report = result("new_on_old_IJBC_1N")
    assert report["settings"]["protocol"] == "1:N"
    assert list(report["1:N"]["galleries"]) == ["G1", "G2", "mixed"]
    assert (report["1:N"]["mated"], report["1:N"]["probes"]) == (12, 12)
    galleries = [report["1:N"]["galleries"][name] for name in ("G1", "G2")]
    pooled = sum(gallery["top"]["1"] * gallery["mated"] for gallery in galleries) / 12
    assert report["1:N"]["top"]["1"] == report["1:N"]["top_of_all_probes"]["1"] == pytest.approx(pooled)
    assert Path("ijbc_result/new_on_old_IJBC_1N_cmc.png").is_file()
    assert Path("ijbc_result/new_on_old_IJBC_1N_tpir.png").is_file()


def test_bunch_gives_eight_rows(evaluate, flags):
    out = evaluate(*flags["self"], "-B", "-L")
    assert all(f"new IJBC {mode}" in out for mode in MODES)
    report = result("new_IJBC_11_bunch")
    assert list(report["modes"]) == [str(mode) for mode in MODES]
    assert report["1:1"] == report["modes"]["N0D1F1"]
    with np.load("ijbc_result/new_IJBC_11_bunch.npz") as arrays:
        scores, label = arrays["scores"], arrays["label"]
    assert scores.shape == (8, 153) and label.sum() == 18
    # Each mode asks for other numbers; the detector's scores are all 0.9 here and cancel in the norm.
    different = [(a, b) for a in range(8) for b in range(a) if np.abs(scores[a] - scores[b]).max() > 1e-5]
    assert len(different) == 28 - 4
    evaluate(*flags["self"], "-B", "-N")
    assert len(result("new_IJBC_1N_bunch")["modes"]) == 8


@pytest.mark.long
def test_embeddings_are_kept_and_force_computes_them_again(evaluate, flags, embedded, place):
    evaluate(*flags["self"])
    assert len(embedded) == 1
    evaluate(*flags["self"], "-N")
    assert len(embedded) == 1
    evaluate(*flags["self"], "-F")
    assert len(embedded) == 2
    evaluate("-m", place / "old/model.pt", "-net", "mbf")
    assert len(embedded) == 3
    evaluate(*flags["self"], "--pixel-scale", "128")
    assert len(embedded) == 4
    assert all("data" not in str(file) and "ijbc_result/embeddings" in str(file) for file in embedded)


def test_result_file_with_embeddings_is_a_source_of_its_own(evaluate, flags, embedded):
    evaluate(*flags["cross"], "-E", "-R", "kept/mine.npz", "-b", "7")
    first = json.loads(Path("kept/mine.json").read_text())
    with np.load("kept/mine.npz") as arrays:
        assert {arrays[f"embs{x}"].shape for x in ("", "_f", "_old", "_f_old")} == {(36, 8)}
    assert len(embedded) == 2
    evaluate("-R", "kept/mine.npz")
    again = result("new_on_old_IJBC_11")
    assert again["1:1"] == first["1:1"] and again["settings"]["old"] == first["settings"]["old"]
    evaluate("-R", "kept/mine.npz", "-N")
    assert result("new_on_old_IJBC_1N")["settings"]["kind"] == "cross" and len(embedded) == 2
    assert Path("kept/mine.npz").is_file()


@pytest.mark.long
def test_a_name_in_a_file_does_not_lead_out_of_the_results(evaluate, flags, tmp_path):
    evaluate(*flags["self"], "-E", "-R", "kept/mine.npz")
    with np.load("kept/mine.npz") as arrays:
        kept = dict(arrays)
    report = json.loads(str(kept["report"]))
    report["settings"]["name"] = "../../elsewhere"
    np.savez("kept/mine.npz", **kept | {"report": np.array(json.dumps(report))})
    evaluate("-R", "kept/mine.npz")
    assert Path("ijbc_result/elsewhere_IJBC_11.npz").is_file() and not Path("../elsewhere_IJBC_11.npz").exists()


def test_a_source_that_is_written_again_keeps_its_embeddings(evaluate, flags):
    evaluate(*flags["self"], "-E")
    file = "ijbc_result/new_IJBC_11.npz"
    for _ in range(2):
        evaluate("-R", file)
    with np.load(file) as arrays:
        assert arrays["embs_f"].shape == (36, 8)


def test_public_reading_differs_and_leaves_nothing_out(evaluate, flags):
    out = evaluate(*flags["self"], "--roc", "public")
    assert "n/a" not in out and None not in result("new_IJBC_11")["1:1"]["TAR"]


@pytest.mark.long
def test_plots_of_saved_results(evaluate, flags):
    evaluate(*flags["self"])
    evaluate(*flags["cross"])
    evaluate(*flags["self"], "-N")
    out = evaluate("-P", "ijbc_result/new_IJBC_11.npz,", "ijbc_result/*1*.npz", "--out", "plots")
    assert "new IJBC (2)" in out and "new_on_old IJBC" in out and "top-1" in out
    assert sorted(p.name for p in Path("plots").iterdir()) == ["plot_cmc.png", "plot_det.png", "plot_roc.png",
                                                               "plot_tpir.png"]
    assert cv2.imread("plots/plot_roc.png").std() > 1


def test_ijbb(evaluate, flags, place, tmp_path):
    write_ijb(tmp_path / "b")
    (tmp_path / "b/IJBC").rename(tmp_path / "b/IJBB")
    for file in (tmp_path / "b/IJBB/meta").iterdir():
        file.rename(file.with_name(file.name.replace("ijbc", "ijbb").replace("_G", "_S")))
    evaluate(*flags["self"], "-s", "IJBB", "-N", data=tmp_path / "b")
    assert list(result("new_IJBB_1N")["1:N"]["galleries"]) == ["S1", "S2", "mixed"]


def refused(evaluate, message: str, *flags, **where) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(*flags, **where)


def test_mistakes_end_with_one_sentence(evaluate, flags, place, tmp_path):
    wide = [f"-m={place / 'wide/model.pt'}", *flags["cross"][1:]]
    refused(evaluate, r"wide/model.pt gives 12 dimensions, .*old/model.pt gives 8", *wide)
    refused(evaluate, "no IJBC data in .*nowhere", *flags["self"], data=tmp_path / "nowhere")
    (tmp_path / "empty/IJBC").mkdir(parents=True)
    refused(evaluate, "expected the folders meta and loose_crop", *flags["self"], data=tmp_path / "empty")
    refused(evaluate, "new/model.pt does not hold a r50", f"-m={place / 'new/model.pt'}")
    refused(evaluate, "no model file .*none.pt", "-m", "none.pt")
    refused(evaluate, "no new model: give one with -m")
    refused(evaluate, "no new model: give one with -m", "-R", "none.npz")
    refused(evaluate, "expected a name that ends in .npz", *flags["self"], "-R", "result.txt")
    refused(evaluate, "-P needs result files", "-P")
    refused(evaluate, "none.npz is not a result file of this evaluator", "-P", "none.npz")
    np.savez("other.npz", scores=np.zeros(3))
    refused(evaluate, "other.npz is not a result file of this evaluator", "-P", "other.npz")
    refused(evaluate, "expected the embeddings of 36 images .*found none", "-R", "other.npz")
    np.savez("few.npz", embs=np.zeros((5, 8)), embs_f=np.zeros((5, 8)))
    refused(evaluate, r"of 36 images .*found \[\(5, 8\)\]", "-R", "few.npz")
    Path("corrupt.npz").write_bytes(b"PK\3\4 corrupt")
    refused(evaluate, "corrupt.npz is not a result file", "-R", "corrupt.npz")
    Path("a_file").write_text("")
    refused(evaluate, "the folder a_file/x cannot be made", *flags["self"], "--out", "a_file/x")


@pytest.mark.parametrize("flag", ["-b=0", "--workers=-1", "--pixel-scale=0", "-s=IJBA", "--roc=best", "-b=many"])
def test_values_out_of_range_are_refused_by_the_command_line(evaluate, flag):
    with pytest.raises(SystemExit) as stop:
        evaluate(flag)
    assert stop.value.code == 2


def test_the_script_itself_ends_without_a_traceback(place, tmp_path):
    script = partial(run_script, SCRIPT, cwd=tmp_path)
    wrong = script("-m=none.pt", "-d", str(place / "data"))
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: no model file none.pt")
    assert "Traceback" not in wrong.stderr
    helped = script("--help")
    assert helped.returncode == 0 and "(default: 127.5)" in helped.stdout
    right = script(f"-m={place / 'new/model.pt'}", "-net=mbf", "-d", str(place / "data"), "--workers", "1")
    assert right.returncode == 0 and (tmp_path / "ijbc_result/new_IJBC_11.npz").is_file()


def test_a_new_model_of_another_dimension_is_compared_through_its_view(evaluate, place, embedded, tmp_path):
    """Queries are embeddings @ matrix, said aloud; without the file, or with that of another model, a sentence."""
    (tmp_path / "NEW").mkdir()
    model = tmp_path / "NEW/model.pt"
    model.write_bytes((place / "wide/model.pt").read_bytes())
    call = [f"-m={model}", "-net=mbf", f"-m_old={place / 'old/model.pt'}", "-old_net=mbf"]
    with pytest.raises(UserError, match="gives 12 dimensions, .* gives 8; expected the same number, or view_8.npz next to"):
        evaluate(*call)
    matrix = np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32)
    save_view(tmp_path / "NEW", matrix, "f" * 64)
    with pytest.raises(UserError, match="is the view of the model ffffffffffff"):
        evaluate(*call)
    save_view(tmp_path / "NEW", matrix, fingerprint(load_state(model)))
    assert f"queries are compared through their view of 8 dimensions, {tmp_path / 'NEW/view_8.npz'}" in evaluate(*call)
    images = read_images(place / "data", "IJBC")
    new, old = (np.load(file) for file in embedded)
    query, gallery = template_features([view @ matrix for view in new], images), template_features(old, images)
    pairs = read_pairs(place / "data", "IJBC", images)
    cosines = [gallery[a] @ query[b] for a, b in zip(pairs.enrol, pairs.verify, strict=True)]
    with np.load("ijbc_result/NEW_on_old_IJBC_11.npz") as arrays:
        np.testing.assert_allclose(arrays["scores"][0], cosines, atol=1e-5)
