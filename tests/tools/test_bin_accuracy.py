"""Accuracy on .bin files from models and from embeddings: one figure, by a loop; what does not fit is refused or doubted."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_toys import SIZE, expected, node, write
from toy import jpeg

from backbones import get_model
from records.images import decode
from tools.bin_accuracy import bin_accuracy
from utils.errors import UserError

PAIRS = 60
INSIDE = [node("Sub", "input m", "a"), node("Div", "a m", "x")], {"m": 127.5}


def write_bin(file: Path, pairs: int = PAIRS) -> tuple[np.ndarray, list[bool]]:
    """Even pairs show one person, odd pairs two; (images as they are decoded, same)."""
    same = [i % 2 == 0 for i in range(pairs)]
    images = [jpeg(pair if side == 0 or same[pair] else 1000 + pair, 2 * pair + side, SIZE)
              for pair in range(pairs) for side in (0, 1)]
    file.write_bytes(pickle.dumps((images, same)))
    return np.stack([decode(image) for image in images]), same


def accuracy(sums: np.ndarray, same: list[bool]) -> float:
    """Ten folds by a loop: the first best threshold on a grid of 0.01 of squared distances."""
    rows = [row / np.sqrt((row ** 2).sum()) for row in sums]
    distance = np.array([((rows[2 * i] - rows[2 * i + 1]) ** 2).sum() for i in range(len(same))])
    fold_of = np.array([fold for fold, members in enumerate(np.array_split(range(len(same)), 10)) for _ in members])
    right = []
    for fold in range(10):
        best, chosen = -1.0, 0.0
        for step in range(400):
            share = ((distance < step / 100) == same)[fold_of != fold].mean()
            if share > best:
                best, chosen = share, step / 100
        right.append(((distance < chosen) == same)[fold_of == fold].mean())
    return float(np.mean(right))


@pytest.fixture
def table(tmp_path, monkeypatch, capsys):
    """Runs the command in tmp_path; ({name: cells}, what it wrote to stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[dict[str, list[str]], str]:
        monkeypatch.setattr(sys, "argv", ["bin_accuracy.py", *words, "--device", "cpu", "-b", "7"])
        bin_accuracy.main()
        out, error = capsys.readouterr()
        rows = [[word.strip() for word in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
        return {row[0]: row[1:] for row in rows}, error
    return call


def test_a_model_and_its_embeddings_have_the_accuracy_of_a_loop(table, tmp_path):
    """One ONNX file that normalises inside and one that does not, one and two views in .npy; two sets in one table."""
    for name, pairs in (("lfw", PAIRS), ("small", 30)):
        faces, same = write_bin(tmp_path / f"{name}.bin", pairs)
        views = expected(faces=faces)
        for folder, array in (("both", 40 * views), ("one", views[0].astype(np.float16))):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.save(tmp_path / folder / name, array)
    write(tmp_path / "in.onnx", *INSIDE)
    write(tmp_path / "out.onnx", [])
    both, one = (accuracy(sums, [i % 2 == 0 for i in range(30)]) for sums in (views.sum(0), views[0]))
    rows, error = table("lfw.bin", "small.bin", "--models", "in=in.onnx", "out=out.onnx,input=127.5/127.5", "both=both",
                        "one=one")
    assert not error and rows.pop("accuracy in %") == ["dimensions", "lfw", "small"]
    assert rows["in"] == rows["out"] == rows["both"] and {row[0] for row in rows.values()} == {"8"}
    for name, figure in (("in", both), ("one", one)):
        assert rows[name][2].startswith(f"{100 * figure:.2f} +- ")
    assert 60 < 100 * both < 100
    wrong, _ = table("lfw.bin", "--models", "in=in.onnx,input=0/255", "lfw=both/lfw.npy")
    assert wrong["lfw"][1] == rows["in"][1] != wrong["in"][1]


def test_a_checkpoint_of_this_project(table, tmp_path):
    faces, same = write_bin(tmp_path / "lfw.bin")
    torch.manual_seed(0)
    model = get_model("mbf", num_features=8, image_size=SIZE).eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    x = (torch.from_numpy(faces).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    with torch.no_grad():
        sums = (model(x) + model(x.flip(3))).double().numpy()
    rows, _ = table("lfw.bin", "--models", "new=model.pt:mbf")
    assert rows["new"][1].startswith(f"{100 * accuracy(sums, same):.2f} +- ")


def test_permuted_rows_are_doubted(table, tmp_path):
    faces, _ = write_bin(tmp_path / "lfw.bin")
    views = expected(faces=faces)
    np.save(tmp_path / "good.npy", views)
    np.save(tmp_path / "permuted.npy", views[:, np.random.default_rng(0).permutation(len(faces))])
    _, error = table("lfw.bin", "--models", "good=good.npy", "bad=permuted.npy")
    assert error.startswith("warning: bad guesses on lfw.bin: ") and "do the rows belong to the images" in error
    assert len(error.splitlines()) == 1


def test_pairs_of_one_kind_say_nothing(table, tmp_path):
    faces, _ = write_bin(tmp_path / "lfw.bin")
    (tmp_path / "one.bin").write_bytes(pickle.dumps(([jpeg(0, i, SIZE) for i in range(40)], [True] * 20)))
    np.save(tmp_path / "a.npy", expected(faces=faces[:40])[0])
    assert "one.bin are all of one kind: its accuracy says nothing" in table("one.bin", "--models", "a=a.npy")[1]


@pytest.mark.parametrize("words, sentence", [
    (["lfw.bin", "--models", "a=short.npy"], r"short.npy holds float64 \[119, 8\]; expected the embeddings of the set's 120 im"),
    (["lfw.bin", "--models", "a=codes.npy"], "codes without a sign have an offset"),
    (["lfw.bin", "--models", "a=zero.npy"], "NaN, infinity or only zeros for image 5"),
    (["lfw.bin", "--models", "a=large.npy"], "NaN, infinity or only zeros for image 7"),
    (["lfw.bin", "again.bin", "--models", "a=good.npy"], "one file of embeddings for 2 sets; expected a folder that"),
    (["lfw.bin", "--models", "a=."], "no file lfw.npy: expected the embeddings of the 120 images by a"),
    (["lfw.bin", "--models", "a=good.npy", "a=good.npy"], "expected a different name for each model, found a, a"),
    (["lfw.bin", "./lfw.bin", "--models", "a=."], "expected sets of different names"),
    (["gone.bin", "--models", "a=good.npy"], "no file gone.bin"),
    (["lfw.bin", "--models", "a=good.npz"], "expected embeddings as .npy"),
    (["lfw.bin", "--models", "a=good.npy,bgr"], "holds embeddings, which have no input"),
    (["lfw.bin", "--models", "a=model.pt"], "expected the network of model.pt after a colon"),
    (["lfw.bin", "--models", "good.npy"], "expected NAME=FILE")])
def test_what_does_not_fit_is_refused(table, tmp_path, words, sentence):
    faces, _ = write_bin(tmp_path / "lfw.bin")
    write_bin(tmp_path / "again.bin")
    good = expected(faces=faces)[0]
    zero, large = good.copy(), good.copy()
    zero[5], large[7] = 0, 1e25             # no direction; a norm that float32 cannot hold
    codes = np.zeros((120, 8), np.uint8)
    for name, array in (("good", good), ("short", good[1:]), ("zero", zero), ("large", large), ("codes", codes)):
        np.save(tmp_path / name, array)
    with pytest.raises(UserError, match=sentence):
        table(*words)


def test_two_recognisers_on_pairs_of_lfw(table, faces):
    """A loop with 4,000 thresholds gave 98.33 and 98.67 % of these 600 pairs."""
    folder = faces.parent / "real_models"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    files = [f"{name}={folder}/{name}_lfw.npy" for name in ("mfn192", "fp512")]
    rows, error = table(str(faces / "ms1m-retinaface-t1/lfw.bin"), "--models", *files)
    assert not error and [rows[name][1][:5] for name in ("mfn192", "fp512")] == ["98.33", "98.67"]
