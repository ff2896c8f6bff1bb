"""Two ranks, with 4 and 3 of 7 classes, compute what one computes: terms, gradients, trainings, prototypes, entropies."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from method_loops import bct_rows, class_mean_rows, refined_rows
from method_steps import steps_of_this_rank, trained_of_this_rank
from method_toys import DATA, DIM, IMAGES, VARIANTS, Pictures, settings
from ranks import on_ranks

from BCT_Methods.BCT.train import BCT
from BCT_Methods.NCCL.credible import entropy
from BCT_Methods.UniBCT.train import UniBCT
from engine.distributed import replicate

# The absolute values of a gradient's float32 terms add up to 2 (AdvBCT's discriminator); 20 rows.
ROUNDING = 2 * 20 * torch.finfo(torch.float32).eps      # 5e-6


def all_of_this_rank(folder: Path) -> dict:
    """All that the tests compare between one rank and two, so that two processes start once."""
    return {"steps": {name: steps_of_this_rank(name, folder) for name in VARIANTS},
            "trained": {name: trained_of_this_rank(name, folder) for name in VARIANTS},
            "refined": refine_of_this_rank(folder), "entropy": entropy_of_this_rank(),
            "rows": rows_of_this_rank(folder), "shard": shard_under_ddp(folder)}


@pytest.fixture(scope="module")
def two_ranks(old_side) -> list[dict]:
    return on_ranks(2, all_of_this_rank, old_side)


@pytest.mark.parametrize("name", VARIANTS)
def test_terms_and_gradients_of_one_rank_are_those_of_two(name, old_side, one_rank, two_ranks):
    """DDP averages: a rank's own rows carry twice the gradient, its class vectors and the parameters the whole one."""
    for step, one in enumerate(steps_of_this_rank(name, old_side)):
        ranks = [rank["steps"][name][step] for rank in two_ranks]
        for key, value in one["terms"].items():
            torch.testing.assert_close(sum(rank["terms"][key] for rank in ranks) / 2, value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.cat([rank["new"] for rank in ranks]) / 2, one["new"], rtol=1e-4, atol=1e-6)
        assert [len(rank["weight"]) for rank in ranks] == [4, 3]
        torch.testing.assert_close(torch.cat([rank["weight"] for rank in ranks]), one["weight"], rtol=1e-4, atol=1e-6)
        for key, value in one["parameters"].items():
            torch.testing.assert_close(sum(rank["parameters"][key] for rank in ranks) / 2, value, rtol=1e-4, atol=ROUNDING)


@pytest.mark.parametrize("name", VARIANTS)
def test_training_on_two_ranks_is_training_on_one(name, old_side, one_rank, two_ranks):
    """Two updates with gradient accumulation under DDP; a method's buffers stay each rank's own (NCCL: 4 and 3 classes)."""
    one = trained_of_this_rank(name, old_side)
    ranks = [rank["trained"][name] for rank in two_ranks]
    for rank in ranks:
        for found, expected in zip(rank["parameters"], one["parameters"], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([rank["weight"] for rank in ranks]), one["weight"], rtol=1e-4, atol=1e-5)
    if name == "NCCL":
        logits = torch.cat([rank["buffers"]["queue.logits"] for rank in ranks], 1)
        torch.testing.assert_close(logits, one["buffers"]["queue.logits"], rtol=1e-4, atol=1e-5)


class LearntFactor(BCT):
    """A user's method that has a parameter and a shard by class."""

    def __init__(self, cfg, data):
        super().__init__(cfg, data)
        self.factor = torch.nn.Parameter(torch.ones(()))


def shard_under_ddp(folder: Path) -> torch.Tensor:
    method = LearntFactor(settings("BCT", folder), DATA)
    replicate(method)
    return method.influence.prototypes


def test_ddp_leaves_shards_alone(two_ranks):
    torch.testing.assert_close(torch.cat([rank["shard"] for rank in two_ranks]), bct_rows(False).float())


def refine_of_this_rank(folder: Path) -> tuple:
    """(class means, UniBCT's prototypes after epoch 10, new features [IMAGES, DIM] of a backbone with BatchNorm)."""
    torch.manual_seed(4)
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, DIM), torch.nn.BatchNorm1d(DIM))
    method = UniBCT(settings("UniBCT", folder, batch_size=7), DATA)
    before = method.influence.prototypes.copy_(class_mean_rows()[method.influence.classes]).clone()
    for epoch in (0, 9):
        method.start_epoch(epoch, backbone, Pictures())
        assert torch.equal(method.influence.prototypes, before)
    method.start_epoch(10, backbone, Pictures())
    images = Pictures().__getitems__(np.arange(IMAGES))[0]
    with torch.no_grad():
        new = backbone((images.permute(0, 3, 1, 2).float() - 127.5) / 127.5)
    return before, method.influence.prototypes, new


def test_refinement_over_the_data(old_side, one_rank, two_ranks):
    """start_epoch replaces the prototypes in epoch 10, and they are the same on one rank and on two."""
    _, one, new = refine_of_this_rank(old_side)
    torch.testing.assert_close(one.double(), refined_rows(new.numpy(), 0.9, 0.05, False), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat([rank["refined"][1] for rank in two_ranks]), one, rtol=0, atol=1e-5)
    assert (one - torch.cat([rank["refined"][0] for rank in two_ranks])).abs().max() > 0.01      # not the plain mean


def entropy_of_this_rank() -> torch.Tensor:
    return entropy(toy_logits().tensor_split(dist.get_world_size(), dim=1)[dist.get_rank()])


def toy_logits() -> torch.Tensor:
    logits = 30 * torch.randn(4, 11, generator=torch.Generator().manual_seed(6))
    logits[3] = 0
    return logits


def test_entropy_over_shards(one_rank, two_ranks):
    p = toy_logits().double().softmax(1)
    slow = torch.tensor([-sum(x * math.log(x) for x in row.tolist() if x > 0) for row in p])
    assert slow[3] == pytest.approx(math.log(11))
    for found in [entropy_of_this_rank(), *(rank["entropy"] for rank in two_ranks)]:
        torch.testing.assert_close(found, slow, rtol=1e-5, atol=1e-5)


def rows_of_this_rank(folder: Path) -> torch.Tensor:
    cfg = settings("BCT", folder, old_classifier=str(folder / "old"), scenario="EXclass")
    return BCT(cfg, DATA).influence.prototypes


def test_bct_uses_the_old_classifiers_rows(old_side, one_rank, two_ranks):
    """Five old classes: their own vectors, as unit rows; the prototypes of the file for the other two."""
    torch.testing.assert_close(rows_of_this_rank(old_side), bct_rows(True).float())
    torch.testing.assert_close(torch.cat([rank["rows"] for rank in two_ranks]), bct_rows(True).float())
