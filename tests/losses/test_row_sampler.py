"""The sampled head: which classes take part in a step, how labels are renumbered, how rows and momenta are copied."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from losses import ArcFace, PartialFC

CLASSES, DIM, COUNT = 20, 4, 8          # 8 of 20 classes take part in a step


def sampled(seed: int = 7) -> tuple[PartialFC, torch.optim.Optimizer]:
    head = PartialFC(ArcFace(8.0), DIM, CLASSES, sample_rate=0.44, seed=seed)       # 8.8, not rounded
    other = torch.nn.Parameter(torch.ones(1))           # a group of its own, before the head's, as a backbone has
    optimizer = torch.optim.SGD([{"params": [other]}, {"params": head.parameters()}], 0.1, momentum=0.9)
    head.bind(optimizer)
    return head, optimizer


def step(head: PartialFC, optimizer, labels: list[int], seed: int = 1) -> torch.Tensor:
    """One update on random embeddings with these labels; returns the sampled classes."""
    new = torch.randn(len(labels), DIM, generator=torch.Generator().manual_seed(seed))
    head(new, torch.tensor(labels)).backward()
    optimizer.step()
    optimizer.zero_grad()
    return head.sampler.rows


def test_the_batchs_classes_are_always_among_the_sampled_ones_and_the_others_equally_often(one_rank):
    """300 steps with classes 3 and 11: 6 of 18 others are sampled, 100 times each, with a standard deviation of 8."""
    head, _ = sampled()
    count = np.zeros(CLASSES, int)
    for _ in range(300):
        active, labels = head.sampler.lend(head.weight, torch.tensor([11, -1, 3, 11]))
        rows = head.sampler.rows
        assert len(rows) == COUNT and (rows.diff() > 0).all()
        assert rows[labels[[0, 2, 3]]].tolist() == [11, 3, 11] and labels[1] == -1      # -1: a class of another shard
        assert torch.equal(active, head.weight[rows])
        count[rows.numpy()] += 1
    assert count[3] == count[11] == 300
    assert (abs(np.delete(count, [3, 11]) - 100) < 40).all()


def test_more_classes_in_the_batch_than_are_sampled_all_take_part(one_rank):
    head, _ = sampled()
    given = [17, 2, 5, 0, 19, 8, 9, 12, 3, 4, 2]
    _, labels = head.sampler.lend(head.weight, torch.tensor(given))
    assert head.sampler.rows.tolist() == sorted(set(given)) and head.sampler.rows[labels].tolist() == given
    exactly = [17, 2, 5, 0, 19, 8, 9, 12]
    head.sampler.lend(head.weight, torch.tensor(exactly))
    assert head.sampler.rows.tolist() == sorted(exactly)


def test_the_sample_is_a_function_of_seed_rank_and_step(one_rank, monkeypatch):
    def rows(seed: int = 7, rank: int = 0) -> list[tuple]:
        with monkeypatch.context() as patch:
            head, _ = sampled(seed)
            patch.setattr(dist, "get_rank", lambda: rank)
            out = []
            for _ in range(3):
                head.sampler.lend(head.weight, torch.tensor([0]))
                out.append(tuple(head.sampler.rows.tolist()))
            return out
    torch.manual_seed(1)
    first = rows()
    torch.manual_seed(2)
    assert rows() == first
    assert len(set(first + rows(seed=8) + rows(rank=1) + rows(rank=2))) == 12


def test_updated_rows_and_their_momentum_are_written_back(one_rank):
    """The optimiser works on copies: after its step the weight has the new rows, and each row's momentum is kept."""
    head, optimizer = sampled()
    momentum = torch.zeros(CLASSES, DIM)
    for turn in range(6):
        before = head.weight.clone()
        new = torch.randn(2, DIM, generator=torch.Generator().manual_seed(turn))
        head(new, torch.tensor([turn, 19])).backward()
        rows, active = head.sampler.rows, head.sampler.active
        assert torch.equal(head.weight, before) and optimizer.param_groups[1]["params"][0] is active
        momentum[rows] = 0.9 * momentum[rows] + active.grad
        optimizer.step()
        expected = before.clone()
        expected[rows] -= 0.1 * momentum[rows]
        torch.testing.assert_close(head.weight, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(head.sampler.state["momentum_buffer"], momentum, rtol=1e-6, atol=1e-6)
        assert len(optimizer.state) == 1 and len(rows) == COUNT         # no state of earlier steps is kept
        optimizer.zero_grad()


def test_changes_of_the_groups_learning_rate_and_decay_have_an_effect(one_rank):
    head, optimizer = sampled()
    optimizer.param_groups[1].update(lr=0.0)
    before = head.weight.clone()
    step(head, optimizer, [1, 2])
    assert torch.equal(head.weight, before)
    optimizer.param_groups[1].update(lr=0.5, weight_decay=1.0, momentum=0.0)
    rows = step(head, optimizer, [3, 3], seed=2)
    others = torch.ones(CLASSES, dtype=torch.bool)
    others[rows] = False
    assert torch.equal(head.weight[others], before[others])             # a class that is not sampled does not decay either
    assert (head.weight[rows].norm(dim=1) != before[rows].norm(dim=1)).all()


def test_the_step_is_in_the_checkpoint(one_rank):
    """A head that loads the state samples the same classes next, with the same momentum."""
    head, optimizer = sampled()
    for turn in range(3):
        step(head, optimizer, [turn])
    state = {name: value.clone() for name, value in head.state_dict().items()}
    assert set(state) == {"weight", "sampler.drawn", "sampler.momentum_buffer"} and state["sampler.drawn"] == 3
    other, its_optimizer = sampled()
    other.load_state_dict(state)
    rows = [step(*pair, [5], seed=9).tolist() for pair in ((head, optimizer), (other, its_optimizer))]
    assert rows[0] == rows[1] and torch.equal(head.weight, other.weight)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01])
def test_shares_outside_0_to_1_are_refused(rate, one_rank):
    with pytest.raises(ValueError, match=r"sample_rate must be in \(0, 1\]"):
        PartialFC(ArcFace(), DIM, CLASSES, sample_rate=rate)
