"""reproduce.sh --old: from an old model that exists, a file or its vectors, to the page; what does not fit is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_toys import SIZE, expected, node, write
from reproduction_toys import reproduce_here, steps_in_forks
from toy import jpeg, write_ijb

from backbones.weights import load_model
from records.faces import FaceRecords
from records.images import decode
from tools.make_rec import make_rec
from tools.reproduce import reproduce
from tools.reproduce.reproduce import Recipe, all_steps
from utils.errors import UserError

INSIDE = [node("Sub", "input m", "a"), node("Div", "a m", "x")], {"m": 127.5}      # the file normalises inside
PEOPLE, EACH, DIM = 12, 6, 8
TINY = ["network=cnn_s", f"image_size={SIZE}", "batch_size=8", "num_epoch=1", "warmup_epoch=0", "workers=0", "val_targets=[]",
        "fp16=False", "scale=16"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Records with images.txt, an evaluation set, an old model as ONNX, its vectors of all images in another order."""
    folder = tmp_path_factory.mktemp("existing")
    faces = {}
    for person in range(PEOPLE):
        for number in range(EACH):
            name = f"p{person:02}/{number}.jpg"
            (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "photos" / name).write_bytes(jpeg(person, number, SIZE))
            faces[name] = decode(jpeg(person, number, SIZE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make_rec.py", str(folder / "photos"), "--out", str(folder / "records"), "--size", str(SIZE),
                                    "--shuffle", "3"])
        make_rec.main()
    write_ijb(folder / "ijb", subjects=8)
    write(folder / "old.onnx", *INSIDE)
    names = np.array(list(faces))[np.random.default_rng(5).permutation(len(faces))]
    vectors = expected(faces=np.stack([faces[name] for name in names]))[0].astype(np.float32)
    np.savez(folder / "vectors.npz", vectors=vectors, ids=names)
    np.save(folder / "vectors.npy", vectors)
    (folder / "ids.txt").write_text("\n".join(names) + "\n")
    np.save(folder / "eval.npy", np.random.default_rng(0).standard_normal((8 * 3 * 2, DIM)).astype(np.float32))
    return folder


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    return ["EXclass", "--methods", "MixBCT,L2", "--backfill", "2", "--records", str(data / "records"), "--ijb",
            str(data / "ijb"), "--out", str(out), *TINY, *map(str, more)]


def steps(monkeypatch, data: Path, out: Path, *more: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments(data, out, *more)])
    args = reproduce.parse_arguments()
    return {step.name: step for step in all_steps([Recipe(args, k) for k in range(1, args.seeds + 1)], ["launch"])}


def test_the_commands_with_a_model_file(data, tmp_path, monkeypatch):
    """No training of an old model, no split; everything new needs the old features first; the page's old side is the file."""
    found = steps(monkeypatch, data, tmp_path, "--old", f"{data}/old.onnx,input=raw", "--seeds", "2", "new:lr=3")
    seed_2 = ["seed_2_paragon", "seed_2_MixBCT", "seed_2_paragon_features", "seed_2_L2"]
    assert list(found) == ["old_features", "credible", "means", "paragon", "MixBCT", "paragon_features", "first", "L2", *seed_2,
                           "compare"]
    save = tmp_path / "feature_save"
    start = f"{save}/EXclass/old_class100"
    features = found["old_features"]
    assert features.command[:8] == ["launch", "tools/get_feature/get_feature.py", "configs/f512_r18_arc_class30.py", "--SD",
                                    "old_class100", "--force", "--model", f"{data}/old.onnx,input=raw"]
    assert {f"dataset={data}/records", f"feature_save={save}"} < set(features.command) and "lr=3" not in features.command
    assert str(features.makes) == f"{start}_feature.npy" and features.needs == ()
    for name in ("credible", "means"):
        assert found[name].needs == ("old_features",) and {"old_class100", f"--feature-save={save}"} < set(found[name].command)
    for name in ("paragon", "MixBCT", "L2", "seed_2_paragon", "seed_2_MixBCT"):
        assert found[name].needs == ("credible", "means"), name
    assert {"rec=train", f"embedding_size={DIM}", "lr=3"} < set(found["paragon"].command)
    for name in ("MixBCT", "seed_2_L2"):
        assert {"old_model=None", f"embedding_size={DIM}", f"old_feature={start}_feature.npy",
                f"prototypes={start}_avg_feature.npy", f"credible={start}_credible_ratio_90_feature.npy",
                "lr=3"} < set(found[name].command), name
    page = found["compare"].command
    options = {page[i]: page[i + 1] for i in range(2, len(page) - 1)}
    assert options["--old"] == f"old={data}/old.onnx,input=raw" and options["--old-features"] == f"{start}_feature.npy"
    own = [f"{folder}/feature_save/EXclass/f512_r50_arc_class100_feature.npy" for folder in (tmp_path, tmp_path / "seed_2")]
    assert options["--new-features"] == f"paragon={','.join(own)}"
    assert options["--title"].startswith("EXclass, old.onnx: can")


def test_the_commands_with_vectors(data, tmp_path, monkeypatch):
    found = steps(monkeypatch, data, tmp_path, "--old", f"{data}/vectors.npy", "--old-ids", f"{data}/ids.txt", "--old-eval",
                  f"{data}/eval.npy")
    assert found["old_features"].command == [
        sys.executable, "tools/import_features/import_features.py", f"{data}/vectors.npy", "--ids", f"{data}/ids.txt",
        "--dataset", f"{data}/records", "--SD", "old_class100", "--feature-save", f"{tmp_path}/feature_save", "--missing",
        "refuse", "--force"]
    page = found["compare"].command
    assert page[page.index("--old") + 1] == f"old={data}/eval.npy" and f"embedding_size={DIM}" in found["L2"].command


def test_new_models_may_have_other_dimensions_than_the_old_one(data, tmp_path, monkeypatch):
    """The old features keep theirs; a family of two dimensions does not change that."""
    for family in ("arc_to_arc_f512", "softmax_to_arc_f128"):
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments(data, tmp_path, "--old", f"{data}/old.onnx", "--family",
                                          family, "new:embedding_size=12", "L2:embedding_size=6")])
        found = {training.name: training.load() for training in Recipe(reproduce.parse_arguments()).trainings}
        assert {name: cfg.embedding_size for name, cfg in found.items()} == {"paragon": 12, "MixBCT": 12, "L2": 6}
        assert found["MixBCT"].old_dim == found["L2"].old_dim == DIM


@pytest.mark.parametrize("more, sentence", [
    (["--old", "vectors.npz"], "also needs the old model's embeddings of the evaluation images: give --old-eval FILE.npy"),
    (["--old", "vectors.npy", "--old-eval", "eval.npy"], "a .npy needs --ids FILE.txt"),
    (["--old", "vectors.npz", "--old-eval", "gone.npy"], "gone.npy: expected a file of embeddings"),
    (["--old", "old.onnx", "--old-eval", "eval.npy"], "--old-eval belongs to vectors, and --old old.onnx is a model"),
    (["--old", "old.onnx", "embedding_size=4"], "for other dimensions of the new models give new:embedding_size=N"),
    (["--old", "old.onnx", "L2:old_dim=4"], "old_dim is that of the old model with --old"),
    (["--old", "old.onnx", "old:lr=1"], "settings for old: expected new or one of paragon, MixBCT, L2"),
    (["--old", "gone.onnx"], "no model file gone.onnx"),
    (["--old", ""], "expected an .onnx file, a .pt file with its network .FILE:NETWORK., or vectors as .npy, .npz, .csv"),
    (["--old", "vectors.npz:r50", "--old-eval", "eval.npy"], "vectors have no network and no input; leave out what follows vec"),
    (["--old", "vectors.csv,bgr", "--old-eval", "eval.npy"], "vectors have no network and no input; leave out what follows vec"),
    (["--old", "model.pt"], "expected the network of model.pt after a colon"),
    (["--old", "old.onnx,brg"], "found 'brg'"),
    (["--old", "old.onnx", "--old-missing", "refuse"], "--old-missing belongs to vectors, and --old old.onnx is a model"),
    (["--old-missing", "refuse"], "--old-missing belongs to an old model that exists; give --old, too"),
    (["--old-eval", "eval.npy"], "--old-eval belongs to an old model that exists; give --old, too")])
def test_what_does_not_fit_is_refused(data, tmp_path, monkeypatch, more, sentence):
    monkeypatch.chdir(data)
    with pytest.raises(UserError, match=sentence):
        steps(monkeypatch, data, tmp_path, *more)


@pytest.mark.parametrize("scenario", ["EXdata", "OPclass", "OPdata"])
def test_other_scenarios_are_refused(data, tmp_path, monkeypatch, scenario):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", scenario, *arguments(data, tmp_path, "--old", f"{data}/old.onnx")[1:]])
    with pytest.raises(UserError, match=f"expected the scenario EXclass, found {scenario}"):
        reproduce.parse_arguments()


def dry_run(monkeypatch, data: Path, out: Path, *more: str) -> None:
    steps_in_forks(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments(data, out, "--dry-run", *more)])
    reproduce.main()
    assert not out.exists() or not any(out.iterdir())


@pytest.fixture
def vectors(data, tmp_path):
    """Writes vectors and ids that a test changed; the words that name them."""
    def write_changed(values: np.ndarray, names: np.ndarray) -> list[str]:
        np.savez(tmp_path / "changed.npz", vectors=values, ids=names)
        return ["--old", str(tmp_path / "changed.npz"), "--old-eval", str(data / "eval.npy")]
    return write_changed


@pytest.mark.long
def test_a_dry_run_names_what_would_fail_after_hours(data, tmp_path, monkeypatch, vectors, capsys):
    """Vectors of other images, too few, of other dimensions than the evaluation's; too few evaluation rows; permuted ids."""
    out, passed = tmp_path / "out", list[tuple]()
    with np.load(data / "vectors.npz") as good:
        values, names = good["vectors"], good["ids"]
    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "on_data", lambda steps, *rest: passed.append(rest) or steps)
        dry_run(patch, data, out, *vectors(values, names))
    assert (passed[0][0], passed[0][2]) == (data / "records", data / "eval.npy")
    said = capsys.readouterr()
    assert "72 of 72 images have a vector, compared by the path" in said.out and not said.err
    for changed, sentence in (((values, np.array([f"q{row}" for row in range(72)])), "no id of .*changed.npz is the path or"),
                              ((values[1:], names[1:]), "1 of 72 images have no vector in .*npz.* give --old-missing leave-out"),
                              ((np.c_[values, values], names), r"eval.npy holds \[48, 8\]; expected .* \[48, 16\]")):
        with pytest.raises(UserError, match=sentence):
            dry_run(monkeypatch, data, out, *vectors(*changed))
    dry_run(monkeypatch, data, out, *vectors(values[1:], names[1:]), "--old-missing", "leave-out")
    assert "1 images take part in training without the old side's term" in capsys.readouterr().out
    np.save(tmp_path / "short.npy", np.zeros((47, DIM), np.float32))
    with pytest.raises(UserError, match=r"short.npy holds \[47, 8\]"):
        dry_run(monkeypatch, data, out, *vectors(values, names)[:3], str(tmp_path / "short.npy"))
    capsys.readouterr()
    dry_run(monkeypatch, data, out, *vectors(values[np.random.default_rng(0).permutation(len(values))], names))
    assert "do ids and vectors belong together?" in capsys.readouterr().err


def mean_cosine(file: Path, images: torch.Tensor, old: np.ndarray) -> float:
    """Between the embeddings of a model and the old features of the same images; images: uint8 [N, 3, H, W]."""
    with torch.no_grad():
        new = load_model("cnn_s", file).eval()(images.float() / 127.5 - 1).numpy()
    return float(((new * old).sum(1) / np.linalg.norm(new, axis=1) / np.linalg.norm(old, axis=1)).mean())


@pytest.mark.long
def test_from_an_onnx_file_and_from_its_vectors_to_the_same_page(data, tmp_path, monkeypatch, capsys):
    """Old features equal a loop in record order, both ways; L2 learns them and makes queries for the old gallery.

    L2's loss is least at a mean cosine of 1 on the training images; the paragon's space is its own (0.78 to 0.93 and -0.03 to
    0.32 with three seeds).
    """
    more = ["--methods", "L2", "num_epoch=20", "lr=0.1"]

    def run(out: str, *words) -> tuple[str | None, str]:
        return reproduce_here(monkeypatch, capsys, *arguments(data, tmp_path / out, *words, *more))

    end, text = run("file", "--old", data / "old.onnx")
    assert end is None and "old.onnx is given raw pixels, RGB: its first nodes compute" in text, text
    records = FaceRecords(data / "records/train")
    wanted = expected(faces=np.stack([np.asarray(records[i][0]) for i in range(len(records))]))[0]
    start = "feature_save/EXclass/old_class100"
    np.testing.assert_allclose(np.load(tmp_path / f"file/{start}_feature.npy"), wanted, atol=1e-5)
    kept = (tmp_path / "file/compare/embeddings").glob("*.npy")
    old = next(file for file in kept if "onnx" in file.with_suffix(".json").read_text())
    np.save(tmp_path / "eval.npy", np.load(old))

    vectors = ["--old", data / "vectors.npz", "--old-eval", tmp_path / "eval.npy"]
    end, text = run("vectors", *vectors)
    assert end is None, text
    np.testing.assert_allclose(np.load(tmp_path / f"vectors/{start}_feature.npy"), wanted, atol=1e-5)
    pages = [json.loads((tmp_path / f"{name}/compare/compare.json").read_text()) for name in ("file", "vectors")]
    assert pages[0]["matrix"]["old"]["old"] == pages[1]["matrix"]["old"]["old"]
    for page in pages:
        found = {name: page["matrix"][name]["old"]["top-1"]["value"] for name in ("L2", "paragon")}
        assert found["L2"] > found["paragon"], found
    images = torch.stack([torch.as_tensor(np.asarray(records[i][0])) for i in range(len(records))]).permute(0, 3, 1, 2)
    for out in ("file", "vectors"):
        cosines = {name: mean_cosine(tmp_path / out / name / "model.pt", images, wanted) for name in ("L2", "paragon")}
        assert cosines["L2"] > max(0.5, cosines["paragon"] + 0.2), cosines

    end, _ = run("file", *vectors)
    assert "holds features of another old model than --old" in end


@pytest.mark.long
def test_larger_new_models_search_the_old_gallery_by_their_view(data, tmp_path, monkeypatch, capsys):
    end, text = reproduce_here(monkeypatch, capsys, *arguments(data, tmp_path, "--old", data / "old.onnx", "--methods", "L2",
                                                               "new:embedding_size=12"))
    assert end is None, text
    page = json.loads((tmp_path / "compare/compare.json").read_text())
    assert {name: page["versions"][name]["dim"] for name in ("old", "L2", "paragon")} == {"old": DIM, "L2": 12, "paragon": 12}
    assert "old" in page["matrix"]["L2"] and (tmp_path / f"L2/view_{DIM}.npz").is_file()
    assert f"its view, {tmp_path}/L2/view_{DIM}.npz" in (tmp_path / "compare/compare.txt").read_text()


@pytest.mark.long
def test_an_old_model_at_chance_is_doubted_before_the_trainings_and_on_the_page(data, tmp_path, monkeypatch, capsys):
    """Its file is given pixels that leave only noise: all embeddings are its bias."""
    old = f"{data}/old.onnx,input=0/1000000000"
    _, text = reproduce_here(monkeypatch, capsys, *arguments(data, tmp_path / "out", "--old", old, "--methods", "L2"))
    assert "although its first nodes compute" in text
    assert text.index("look as if they were in another order") < text.index("epoch 1/1")
