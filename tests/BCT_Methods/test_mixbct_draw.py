"""MixBCT's draw: which rows of a batch are replaced, by what, and the effect on the gradient."""


import numpy as np
import pytest
import torch
import torch.distributed as dist
from method_loops import margin_loss, old_unit
from method_toys import DATA, DIM, IMAGES, batches, credible_marks, make_head, old_features, settings

from BCT_Methods.MixBCT.train import MixBCT
from engine.method import Clock

SIZE = 24
NEW, LABELS, INDEX = batches(1, SIZE)[0]
CREDIBLE = torch.from_numpy(credible_marks())[INDEX]        # of the batch's rows


def mixed(method: MixBCT, step: int = 0, rows: slice = slice(None)) -> torch.Tensor:
    """The embeddings that the head gets for these rows of the toy batch."""
    seen = []

    def head(embeddings, labels):
        seen.append(embeddings)
        assert torch.equal(labels, LABELS[rows])
        return embeddings.sum()
    assert method(head, NEW[rows], LABELS[rows], INDEX[rows], Clock(0, step, 0.0)).keys() == {"cls"}
    return seen[0]


def drawn(method: MixBCT, step: int = 0, rows: slice = slice(None)) -> set[int]:
    """The rows of the batch that were replaced."""
    return set((mixed(method, step, rows) != NEW[rows]).any(1).nonzero()[:, 0].tolist())


def test_the_toy_batch_has_credible_rows_and_others_in_no_order():
    assert CREDIBLE.sum() == 11 and (CREDIBLE.int().diff() != 0).sum() >= 8 and len(set(INDEX.tolist())) == SIZE


@pytest.mark.parametrize("ratio, count", [(0.3, 7), (0.4, 9), (0.29, 6), (0.04, 0), (0.5, 11), (1.0, 11), (0.0, 0)])
def test_int_of_alpha_times_b_credible_rows_or_all_of_them_if_there_are_fewer(ratio, count, old_side, one_rank):
    """0.29 x 24 = 6.96 gives 6 rows: not rounded; alpha is a share of the rows of the batch, not of the credible ones."""
    for step in range(5):
        rows = drawn(MixBCT(settings("MixBCT", old_side, mix_ratio=ratio), DATA), step)
        assert len(rows) == count and all(CREDIBLE[row] for row in rows)


def test_the_default_is_38_of_128(old_side, one_rank):
    method = MixBCT(settings("MixBCT", old_side), DATA)
    method.credible = torch.ones(IMAGES, dtype=torch.bool)
    assert len(method.replaced(torch.arange(128) % IMAGES, Clock(0, 0, 0.0))) == 38


def test_all_credible_rows_are_drawn_equally_often(old_side, one_rank):
    """400 steps draw 7 of 11 rows each: 255 times a row, with a standard deviation of 10."""
    method, count = MixBCT(settings("MixBCT", old_side), DATA), np.zeros(SIZE, int)
    for step in range(400):
        count[method.replaced(INDEX, Clock(0, step, 0.0)).numpy()] += 1
    assert not count[~CREDIBLE.numpy()].any()
    assert (abs(count[CREDIBLE.numpy()] - 400 * 7 / 11) < 50).all()


def test_the_draw_is_a_function_of_seed_rank_and_step_and_of_nothing_else(old_side, one_rank, monkeypatch):
    def rows(seed: int = 666, rank: int = 0, epoch: int = 0, step: int = 5, progress: float = 0.1) -> list[int]:
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        return MixBCT(settings("MixBCT", old_side, seed=seed), DATA).replaced(INDEX, Clock(epoch, step, progress)).tolist()
    torch.manual_seed(1)
    first, state = rows(), torch.get_rng_state()
    torch.manual_seed(2)
    assert rows() == first and rows(epoch=4, progress=0.7) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)            # it uses no number of the generator of dropout
    others = [rows(seed=667), rows(rank=1), rows(rank=2), rows(step=6), rows(step=7)]
    assert len({frozenset(other) for other in [first, *others]}) == 6


def test_replaced_rows_are_the_old_unit_features_of_their_own_images(old_side, one_rank):
    method, before = MixBCT(settings("MixBCT", old_side), DATA), NEW.clone()
    for step in range(4):
        rows, out = drawn(method, step), mixed(method, step)
        assert len(rows) == 7
        for row in range(SIZE):
            if row in rows:
                torch.testing.assert_close(out[row].double(), old_unit([INDEX[row]])[0], rtol=0, atol=1e-6)
                assert np.linalg.norm(old_features()[0][INDEX[row]]) > 4        # raw in the file
            else:
                assert torch.equal(out[row], NEW[row])                          # as the backbone gave it
    assert torch.equal(NEW, before)


def test_a_batch_without_credible_rows_is_plain_training(old_side, one_rank):
    method = MixBCT(settings("MixBCT", old_side), DATA)
    method.credible = torch.zeros(IMAGES, dtype=torch.bool)
    assert torch.equal(mixed(method), NEW)


def test_replaced_rows_send_no_gradient_and_count_in_the_mean(old_side, one_rank):
    """The loss is the mean over all B rows, with the margin also on old ones; the class vectors get gradients of both kinds."""
    method, head = MixBCT(settings("MixBCT", old_side), DATA), make_head()
    rows = drawn(method)
    is_drawn = torch.tensor([row in rows for row in range(SIZE)])
    new = NEW.clone().requires_grad_()
    term = method(head, new, LABELS, INDEX, Clock(0, 0, 0.0))["cls"]
    found = torch.autograd.grad(term, [new, head.weight])
    slow_new, weight = NEW.double().requires_grad_(), head.weight.detach().double().requires_grad_()
    slow = margin_loss(torch.where(is_drawn[:, None], old_unit(INDEX), slow_new), LABELS, weight)
    torch.testing.assert_close(term.detach().double(), slow.detach(), rtol=1e-5, atol=1e-6)
    for mine, expected in zip(found, torch.autograd.grad(slow, [slow_new, weight]), strict=True):
        torch.testing.assert_close(mine.double(), expected, rtol=1e-3, atol=1e-6)
    assert not found[0][is_drawn].any() and (found[0][~is_drawn] != 0).any(1).all()


def test_marks_and_features_are_those_of_the_settings(old_side, one_rank, tmp_path):
    """With other files only image 7 is credible, and its old feature differs."""
    marks, features = np.arange(IMAGES) == 7, old_features()[0].copy()
    features[7] = np.arange(DIM)
    np.save(tmp_path / "f6_a_class70_feature.npy", features)
    np.save(tmp_path / "f6_a_class70_credible_ratio_50_feature.npy", marks)
    method = MixBCT(settings("MixBCT", old_side, mix_ratio=1.0, old_feature=str(tmp_path / "f6_a_class70_feature.npy"),
                             credible=str(tmp_path / "f6_a_class70_credible_ratio_50_feature.npy")), DATA)
    index = torch.tensor([3, 7, 9])
    seen = []
    method(lambda embeddings, labels: seen.append(embeddings), NEW[:3], LABELS[:3], index, Clock(0, 0, 0.0))
    torch.testing.assert_close(seen[0][1].double(), torch.arange(DIM) / torch.tensor(55.0).double().sqrt(), rtol=0, atol=1e-6)
    assert torch.equal(seen[0][[0, 2]], NEW[[0, 2]])
