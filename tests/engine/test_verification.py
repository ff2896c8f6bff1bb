"""Ten-fold accuracy against a loop over scikit-learn's folds; two ranks share the embedding of the pairs."""

import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ranks import on_ranks
from sklearn.model_selection import KFold

from engine import verification
from engine.distributed import start_ranks
from engine.verification import THRESHOLDS, Verifier, embed_pairs, ten_fold_accuracy
from losses import View


def test_ten_folds_equal_a_loop():
    draw = np.random.default_rng(0)
    first = draw.standard_normal((57, 8))
    same = draw.random(57) < 0.5
    second = np.where(same[:, None], first + 0.7 * draw.standard_normal((57, 8)), draw.standard_normal((57, 8)))
    features = np.empty((114, 8))
    features[0::2], features[1::2] = first, second
    features /= np.linalg.norm(features, axis=1, keepdims=True)

    distance = [sum((a - b) ** 2) for a, b in zip(features[0::2], features[1::2], strict=True)]
    accuracy = []
    for others, fold in KFold(10).split(same):
        score = [np.mean([(distance[i] < t) == same[i] for i in others]) for t in THRESHOLDS]
        best = THRESHOLDS[int(np.argmax(score))]
        accuracy.append(np.mean([(distance[i] < best) == same[i] for i in fold]))
    found = ten_fold_accuracy(features, same)
    assert found[:2] == pytest.approx((np.mean(accuracy), np.std(accuracy)))
    assert 0.6 < found[0] < 1


class Sums(torch.nn.Module):
    """A backbone whose feature is two numbers of the image."""

    def forward(self, x):
        return torch.stack([x[:, 0].sum((1, 2)), x[:, 1, :, 0].sum(1)], 1)


def embed_on_this_rank(pairs: int) -> tuple:
    images = torch.randint(256, (2 * pairs, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return embed_pairs(Sums(), images, start_ranks() if "RANK" not in os.environ else
                       SimpleNamespace(rank=int(os.environ["RANK"]), world_size=2, device=torch.device("cpu")), 8)


@pytest.mark.parametrize("pairs", [3, 11])
def test_two_ranks_share_the_work(pairs, one_rank):
    features, norm = embed_on_this_rank(pairs)
    images = torch.randint(256, (2 * pairs, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = (images.double().permute(0, 3, 1, 2) - 127.5) / 127.5
    slow = Sums()(x) + Sums()(x.flip(3))
    np.testing.assert_allclose(features, torch.nn.functional.normalize(slow).numpy(), atol=1e-5)
    assert norm == pytest.approx(Sums()(x).norm(dim=1).mean().item(), rel=1e-5)
    for found, found_norm in on_ranks(2, embed_on_this_rank, pairs):
        assert np.array_equal(found, features) and found_norm == pytest.approx(norm)


def test_a_view_is_verified_too(one_rank, monkeypatch, tmp_path):
    """By its own name: unit rows of the first two of four numbers, and of W f; the accuracy of the whole stays."""
    draw = np.random.default_rng(0)
    features = draw.standard_normal((40, 4)).astype(np.float32)
    features[1::4] = features[0::4] + 0.1
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    same = np.arange(20) % 2 == 0
    verify = Verifier(SimpleNamespace(val_targets=[], batch_size=2, network="r50"), one_rank, logging.getLogger("bct"))
    verify.sets = {"pairs": (None, same)}
    monkeypatch.setattr(verification, "embed_pairs", lambda *_: (features, 3.0))
    learnt = View(4, 6, seed=3)
    found = verify(torch.nn.Identity(), {2: View(4, 2), 6: learnt})
    assert list(found) == ["pairs", "pairs view 2", "pairs view 6"]
    for name, rows in (("pairs", features), ("pairs view 2", features[:, :2]),
                       ("pairs view 6", np.stack([learnt.weight.detach().numpy() @ row for row in features]))):
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        assert found[name].mean == pytest.approx(ten_fold_accuracy(rows, same)[0]), name
    assert found["pairs view 2"].mean != found["pairs"].mean and found["pairs view 2"].text.startswith("pairs view 2 accuracy ")
