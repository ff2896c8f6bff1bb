"""Settings and files that a method refuses when it is made, with a sentence that names them."""

from dataclasses import replace

import pytest
import torch
from method_toys import DATA, DIM, METHODS, settings

from utils.errors import UserError


@pytest.mark.parametrize("name, more, words", [
    ("NCCL", {"sample_rate": 0.5}, "set config.sample_rate = 1"),
    ("BCT", {"old_classifier": "old", "scenario": "OPclass"}, "found OPclass; set it to None"),
    ("BCT", {"old_classifier": "nowhere", "scenario": "EXclass"}, "no softmax_fc_gpu_.* in .*nowhere"),
    ("BCT", {"prototypes": "OPclass/none.npy"}, "make it with: python tools/get_feature/get_avg_feature.py --SD none"),
    ("BCT", {"classes": 12}, r"float32 \[7, 6\], expected \[12, 6\]"),
    ("UniBCT", {"refine_epoch": [10, 20], "num_epoch": 10}, "must list epochs from 0 of which the first is below"),
    ("UniBCT", {"images": 49}, "has 48 rows, the training set has 49 images"),
    ("AdvBCT", {"classes": 6}, "values from 0 to 6, expected .48. classes from 0 to 6 - 1"),
    ("AdvBCT", {"embedding_size": 8}, "config.old_dim .None: config.embedding_size. must be the number"),
    ("L2", {"old_feature": None}, "config.old_feature is not set"),
])
def test_refusals(name, more, words, old_side, one_rank):
    data = replace(DATA, **{key: value for key, value in more.items() if hasattr(DATA, key)})
    with pytest.raises(UserError, match=words):
        METHODS[name](settings(name, old_side, **{key: value for key, value in more.items() if not hasattr(DATA, key)}), data)


def test_a_classifier_with_a_missing_or_corrupt_shard_is_refused(old_side, one_rank, tmp_path):
    def make():
        METHODS["BCT"](settings("BCT", old_side, old_classifier=str(tmp_path), scenario="EXclass"), DATA)
    torch.save({"weight": torch.randn(3, DIM), "bias": torch.zeros(3), "num_classes": 6}, tmp_path / "softmax_fc_gpu_0.pt")
    with pytest.raises(UserError, match=r"1 shards in .* hold 3 classes, expected 6"):
        make()
    torch.save({"weight": torch.ones(1).expand(10**6, DIM), "num_classes": 10**6}, tmp_path / "softmax_fc_gpu_1.pt")
    with pytest.raises(UserError, match="gpu_1.pt is not a classifier shard .*it promises more numbers than it holds"):
        make()
    (tmp_path / "softmax_fc_gpu_1.pt").write_bytes(b"no zip")
    with pytest.raises(UserError, match="is not a classifier shard"):
        make()
