"""The four scenarios by hand: the records, the old model and the files of the old side that a run reads."""

from pathlib import Path

import pytest

from BCT_Methods.scenarios import scenario

WORK_DIRS = Path(__file__).resolve().parents[2] / "work_dirs"
# scenario -> (record file of the new model, folder of the old model, prefix of the old side's files)
BY_HAND = {
    "EXclass": ("train", "f256_r34_softmax_class30", "EXclass/f256_r34_softmax_class100"),
    "EXdata": ("train", "f256_r34_softmax_data30", "EXdata/f256_r34_softmax_data100"),
    "OPclass": ("train_part_70_class", "f256_r34_softmax_class30", "OPclass/f256_r34_softmax_class70"),
    "OPdata": ("train_part_70_data", "f256_r34_softmax_data30", "OPdata/f256_r34_softmax_data70"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_scenario_is_the_row_of_the_table(name):
    rec, old, prefix = BY_HAND[name]
    assert scenario(name, old="r34_softmax", new="r100", embedding_size=256) == {
        "scenario": name, "network": "r100", "embedding_size": 256, "rec": rec,
        "old_model": str(WORK_DIRS / old / "model.pt"),
        "old_feature": f"{prefix}_feature.npy",
        "credible": f"{prefix}_credible_ratio_90_feature.npy",
        "prototypes": f"{prefix}_avg_feature.npy"}


def test_the_new_network_is_r50_if_none_is_named():
    assert scenario("OPclass", old="r18_arc", embedding_size=512).network == "r50"


def test_another_scenario_is_an_error():
    with pytest.raises(KeyError):
        scenario("OPEN", old="r18_arc", embedding_size=512)


def test_an_old_model_of_another_dimension():
    """The files are the old model's, the embedding has the new one's dimensions."""
    found = scenario("OPdata", old="r18_arc", embedding_size=512, old_dim=128)
    assert (found.embedding_size, found.old_dim) == (512, 128)
    assert found.old_feature == "OPdata/f128_r18_arc_data70_feature.npy"
    assert found.old_model == str(WORK_DIRS / "f128_r18_arc_data30/model.pt")
