"""What the old model leaves: names, the readers' comparisons, and the classifier put together from its shards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from easydict import EasyDict as edict

from backbones.weights import fingerprint
from engine.model_files import load_classifier, whole_classifier
from old_model.features import OldFeatures, load_credible, load_features, load_labels, load_prototypes, old_side
from old_model.names import artefact, credible_kind, part_of, sd_of
from records.facts import Facts
from utils import files
from utils.errors import UserError
from utils.origin import save_array

SD = "f128_r18_softmax_class70"
ORIGIN = {"model": "model a", "records": "records a", "images": 6}
ROWS = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32) * [[1], [2], [30], [0.1], [5], [6]]
LABELS = np.array([0, 2, 1, 1, 0, 2])


@pytest.fixture
def saved(tmp_path) -> Path:
    """All four artefacts of a set of 6 images and 3 classes; prototypes that are not of length 1."""
    arrays = {"feature": ROWS.astype(np.float32), "label": LABELS, "credible_ratio_90_feature": np.arange(6) % 4 > 0,
              "avg_feature": ROWS[:3].astype(np.float32)}
    for kind, array in arrays.items():
        save_array(artefact(str(tmp_path), SD, kind), array, ORIGIN)
    return tmp_path


def reader(folder: Path, kind: str, **more):
    """Read an artefact as a method does."""
    path = artefact(str(folder), SD, kind)
    expected = dict(images=6) | more
    return {"feature": lambda: OldFeatures(path, dim=4, **expected),
            "credible_ratio_90_feature": lambda: load_credible(path, **expected),
            "label": lambda: load_labels(artefact(str(folder), SD, "feature"), num_classes=3, **expected),
            "avg_feature": lambda: load_prototypes(path, num_classes=3, dim=4, classes=slice(1, 3), **expected)}[kind]()


KINDS = pytest.mark.parametrize("kind", ["feature", "credible_ratio_90_feature", "label", "avg_feature"])


@KINDS
@pytest.mark.parametrize("what, value", [("model", "model b"), ("records", "records b"), ("images", 7)])
def test_every_reader_compares_model_records_and_images(saved, kind, what, value):
    reader(saved, kind, model="model a", records="records a")
    reader(saved, kind)                         # None is not compared
    with pytest.raises(UserError, match=f"different {what}|7 images|\\[7\\]"):
        reader(saved, kind, **({"model": "model a", "records": "records a"} | {what: value}))


@KINDS
def test_a_foreign_array_is_refused(saved, kind):
    file = artefact(str(saved), SD, kind)
    array = np.load(file)
    np.save(file, array[::-1])
    with pytest.raises(UserError, match=f"{file.name} is corrupt, or not the file that {file.stem}.json"):
        reader(saved, kind)


def test_what_the_readers_give(saved):
    unit = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    old = reader(saved, "feature")
    np.testing.assert_allclose(old[torch.tensor([4, 0, 4])], unit[[4, 0, 4]], atol=1e-6)
    assert reader(saved, "credible_ratio_90_feature").tolist() == [False, True, True, True, False, True]
    labels = reader(saved, "label")
    assert labels.tolist() == LABELS.tolist() and labels.dtype == np.int64
    np.testing.assert_allclose(reader(saved, "avg_feature"), unit[1:3], atol=1e-6)         # of the asked classes, as unit rows


def test_every_byte_counts_where_it_is_said(saved, monkeypatch):
    """A byte between two blocks of the quick checksum: seen by the tools of step 2, which read every byte anyway."""
    monkeypatch.setattr(files, "BLOCK", 1)
    monkeypatch.setattr(files, "BLOCKS", 2)
    for kind, array in (("feature", ROWS.astype(np.float32)), ("label", LABELS)):
        save_array(artefact(str(saved), SD, kind), array, ORIGIN)
    features, labels, file = load_features(str(saved), SD)
    np.testing.assert_array_equal(features, ROWS.astype(np.float32))
    assert labels.tolist() == LABELS.tolist() and file == artefact(str(saved), SD, "feature")
    for kind in ("feature", "label"):
        path = artefact(str(saved), SD, kind)
        good = path.read_bytes()
        path.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
        with pytest.raises(UserError, match=f"{kind}.npy is corrupt"):
            load_features(str(saved), SD)
        if kind == "feature":
            reader(saved, kind)                 # the quick checksum alone does not see it
        path.write_bytes(good)


def test_names():
    """The README's table of scenarios, and the names of step 2."""
    assert {part: part_of(f"f1_{part}") for part in ("class100", "data100", "class70", "data70", "class30", "data30")} == {
        "class100": ("EXclass", "train"), "data100": ("EXdata", "train"),
        "class70": ("OPclass", "train_part_70_class"), "data70": ("OPdata", "train_part_70_data"),
        "class30": ("OPclass", "train_part_30_class"), "data30": ("OPdata", "train_part_30_data")}
    assert artefact("save", SD, "label") == Path("save/OPclass/f128_r18_softmax_class70_label.npy")
    assert [credible_kind(share) for share in (0.9, 0.29, 0.5, 1.0, 0.005)] == [
        f"credible_ratio_{number}_feature" for number in ("90", "29", "50", "100", "0.5")]
    for kind in ("feature", "label", "avg_feature", credible_kind(0.9), credible_kind(0.005)):
        assert sd_of(Path(f"x/{SD}_{kind}.npy")) == SD


def test_a_methods_settings_say_what_its_artefact_must_belong_to(saved, tmp_path):
    """Path below feature_save, the training set's images and records, and the very model that config.old_model is now."""
    state = {"weight": torch.arange(3.0)}
    torch.save(state, tmp_path / "model.pt")
    cfg = edict(credible=f"OPclass/{SD}_credible_ratio_90_feature.npy", feature_save=str(saved),
                old_model=str(tmp_path / "model.pt"))
    data = Facts(6, 3, "records a")
    found = old_side(cfg, data, "credible")
    assert found == {"path": saved / "OPclass" / f"{SD}_credible_ratio_90_feature.npy", "images": 6, "records": "records a",
                     "model": fingerprint(state)}
    with pytest.raises(UserError, match="different model"):
        load_credible(**found)
    for absent in (None, str(tmp_path / "none.pt")):
        cfg.old_model = absent
        assert old_side(cfg, data, "credible")["model"] is None
    assert load_credible(**old_side(cfg, data, "credible")).sum() == 4


def write_shards(folder: Path, sizes: list[int], bias: bool = True, start: bool = True) -> torch.Tensor:
    """Class c has the row [c, 1, 2] and the bias 10 c."""
    first, total = 0, sum(sizes)
    for rank, size in enumerate(sizes):
        classes = torch.arange(first, first + size).float()[:, None]
        shard = {"weight": torch.cat([classes, torch.ones(size, 1), 2 * torch.ones(size, 1)], 1), "num_classes": total}
        shard |= ({"bias": 10 * classes[:, 0]} if bias else {}) | ({"class_start": first} if start else {})
        torch.save(shard, folder / f"softmax_fc_gpu_{rank}.pt")
        first += size
    return torch.arange(float(total))


@pytest.mark.parametrize("start", [True, False])
def test_the_classifier_of_twelve_ranks_is_in_the_order_of_its_classes(tmp_path, start):
    """Rank 10 comes behind rank 9, not behind rank 1."""
    classes = write_shards(tmp_path, [2] * 5 + [1] * 7, start=start)
    whole = whole_classifier(tmp_path)
    assert torch.equal(whole["weight"][:, 0], classes) and torch.equal(whole["bias"], 10 * classes)
    unit = torch.stack([classes, torch.ones(17), 2 * torch.ones(17)], 1).double()
    torch.testing.assert_close(load_classifier(tmp_path, 3).double(), unit / unit.square().sum(1, keepdim=True).sqrt(),
                               rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="expected 4 dimensions"):
        load_classifier(tmp_path, 4)


def test_a_classifier_without_bias(tmp_path):
    write_shards(tmp_path, [3, 2], bias=False)
    assert whole_classifier(tmp_path).keys() == {"weight"}
