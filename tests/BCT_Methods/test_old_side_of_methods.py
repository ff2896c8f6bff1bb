"""What a method reads of the old model: the right file and the right rows; files of another run are refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_loops import ball, bct_rows, old_unit
from method_toys import (
    CLASSES,
    DATA,
    DIM,
    IMAGES,
    METHODS,
    SD,
    credible_marks,
    old_features,
    old_prototypes,
    settings,
)

from backbones.weights import fingerprint
from engine.model_files import load_classifier
from old_model.features import OldFeatures, load_credible, load_labels, load_prototypes, old_side
from utils.errors import UserError
from utils.origin import save_origin

KINDS = {"old_feature": "feature", "label": "label", "credible": "credible_ratio_90_feature", "prototypes": "avg_feature"}
# what each method needs according to its documentation
READS = {"MixBCT": {"old_feature", "credible"}, "L2": {"old_feature"}, "BCT": {"prototypes"}, "UniBCT": {"old_feature"},
         "NCCL": {"old_feature"}, "NCCL credible_only": {"old_feature", "prototypes"}, "AdvBCT": {"old_feature", "label"}}


def make(name: str, folder: Path, records: str | None = None, **more):
    name, *only = name.split()
    cfg = settings(name, folder, **more, **{key: True for key in only})
    return METHODS[name](cfg, replace(DATA, fingerprint=records))


@pytest.fixture
def own_side(old_side, tmp_path) -> Path:
    """A copy of the old side whose files name their origin: records "r" and the first of two models next to them."""
    folder = tmp_path / "feature_save"
    shutil.copytree(old_side, folder)
    for number in (1, 2):
        torch.save({"weight": torch.full((2, 2), float(number))}, folder / f"model{number}.pt")
    for kind in KINDS:
        describe(folder, kind)
    return folder


def describe(folder: Path, kind: str, records: str = "r", model: int = 1) -> None:
    origin = {"records": records, "images": IMAGES, "model": fingerprint({"weight": torch.full((2, 2), float(model))})}
    save_origin(folder / f"OPclass/{SD}_{KINDS[kind]}.npy", origin)


@pytest.mark.parametrize("name", READS)
def test_files_of_other_records_or_another_model_are_refused(name, own_side, one_rank):
    """The method checks the files that it needs and no others; with those of this run it starts."""
    mine = dict(records="r", old_model=str(own_side / "model1.pt"))
    make(name, own_side, **mine)
    for kind in KINDS:
        for other, word in ({"records": "s"}, "records"), ({"model": 2}, "model"):
            describe(own_side, kind, **other)
            if kind in READS[name]:
                with pytest.raises(UserError, match=rf"{KINDS[kind]}.npy was computed from a different {word}"):
                    make(name, own_side, **mine)
            else:
                make(name, own_side, **mine)
        describe(own_side, kind)
    make(name, own_side, records=None, old_model=str(own_side / "no such file.pt"))       # the origin cannot be compared
    with pytest.raises(UserError, match="different model"):
        make(name, own_side, records="r", old_model=str(own_side / "model2.pt"))


@pytest.mark.parametrize("name", READS)
def test_a_method_refuses_a_missing_file_that_it_needs_and_no_other(name, old_side, one_rank):
    for key in ("old_feature", "credible", "prototypes"):
        if key in READS[name]:
            with pytest.raises(UserError, match=f"config.{key} is not set"):
                make(name, old_side, **{key: None})
        else:
            make(name, old_side, **{key: None})


def test_prototypes_of_other_images_are_refused(own_side, one_rank):
    save_origin(own_side / f"OPclass/{SD}_avg_feature.npy", {"images": IMAGES - 1})
    with pytest.raises(UserError, match="different images"):
        make("BCT", own_side)


def test_old_side_names_file_images_records_and_model(own_side, one_rank):
    cfg = settings("MixBCT", own_side, old_model=str(own_side / "model2.pt"))
    prints = {number: fingerprint({"weight": torch.full((2, 2), float(number))}) for number in (1, 2)}
    assert prints[1] != prints[2]
    found = old_side(cfg, replace(DATA, fingerprint="r"), "credible")
    assert found == {"path": own_side / f"OPclass/{SD}_credible_ratio_90_feature.npy", "images": IMAGES,
                                         "records": "r", "model": prints[2]}


def test_row_i_is_image_i(old_side, one_rank):
    """Features, marks and labels are in the order of the records, for any order of the index; prototypes are by class."""
    start = old_side / f"OPclass/{SD}"
    index = torch.tensor([41, 0, 17, 17, 5])
    rows = OldFeatures(Path(f"{start}_feature.npy"), images=IMAGES, dim=DIM)[index]
    assert rows.dtype == torch.float32 and not rows.requires_grad
    torch.testing.assert_close(rows.double(), old_unit(index), rtol=0, atol=1e-6)
    assert load_credible(Path(f"{start}_credible_ratio_90_feature.npy"), images=IMAGES).tolist() == credible_marks().tolist()
    labels = load_labels(Path(f"{start}_feature.npy"), images=IMAGES, num_classes=CLASSES)
    assert labels.dtype == np.int64 and labels.tolist() == old_features()[1].tolist()
    rows = load_prototypes(Path(f"{start}_avg_feature.npy"), images=IMAGES, num_classes=CLASSES, dim=DIM, classes=slice(2, 6))
    torch.testing.assert_close(rows.double(), bct_rows(False)[2:6], rtol=0, atol=1e-6)
    assert np.linalg.norm(old_prototypes(), axis=1).min() > 2


def test_advbct_reads_the_labels_next_to_its_features(old_side, one_rank, tmp_path):
    """With other labels next to the same features the balls are those of the classes that these labels name."""
    shutil.copytree(old_side / "OPclass", tmp_path / "OPclass")
    turned = (CLASSES - 1 - old_features()[1]).astype(np.int32)
    np.save(tmp_path / f"OPclass/{SD}_label.npy", turned)
    for folder, class_of in ((old_side, lambda c: c), (tmp_path, lambda c: CLASSES - 1 - c)):
        method = make("AdvBCT", folder)
        for c in range(CLASSES):
            centre, distances = ball(class_of(c))
            torch.testing.assert_close(method.centres[c].double(), centre, rtol=0, atol=1e-6)
            assert method.radii[c].item() == pytest.approx(distances[-1], abs=1e-6)
            assert method.is_ball[c] == (len(distances) > 1)


def test_bct_without_a_classifier_holds_the_unit_rows_of_the_file(old_side, one_rank):
    torch.testing.assert_close(make("BCT", old_side).influence.prototypes.double(), bct_rows(False), rtol=0, atol=1e-6)


def test_the_shards_of_an_old_classifier_are_joined_in_the_order_of_their_ranks(tmp_path):
    """By number: rank 10 comes after rank 9.  The result is unit rows without the bias."""
    rows = torch.randn(11, DIM, generator=torch.Generator().manual_seed(2))
    for rank in (10, 3, 0, 7, 2, 9, 5, 1, 8, 6, 4):
        shard = {"weight": 4 * rows[rank:rank + 1], "bias": torch.ones(1), "num_classes": 11}
        torch.save(shard, tmp_path / f"softmax_fc_gpu_{rank}.pt")
    torch.testing.assert_close(load_classifier(tmp_path, DIM), rows / rows.square().sum(1, keepdim=True).sqrt())


def test_unibcts_prototypes_start_at_zero(old_side, one_rank):
    assert not make("UniBCT", old_side).influence.prototypes.any()
