"""UniBCT over the epochs: when prototypes are refined, from which images and backbone, and when the second term exists."""

from functools import partial

import numpy as np
import pytest
import torch
from method_loops import refined_rows
from method_toys import (
    DATA,
    DIM,
    IMAGES,
    Pictures,
    batches,
    embedded,
    make_backbone,
    make_head,
    old_features,
    pictures,
    settings,
)

from BCT_Methods.UniBCT import refinement
from BCT_Methods.UniBCT.train import UniBCT
from engine.method import Clock
from old_model.statistics import class_blocks


def slow_prototypes(backbone: torch.nn.Sequential, lamb: float = 0.9, tau: float = 0.05) -> torch.Tensor:
    weight, bias = (value.detach().double() for value in backbone[1].parameters())
    return refined_rows(embedded(pictures(range(IMAGES)), weight, bias).numpy(), lamb, tau, False)


def test_prototypes_are_refined_when_the_listed_epochs_begin_and_only_then(old_side, one_rank):
    """Each refinement starts from the old features and uses the present backbone; lambda and tau are not the defaults."""
    method = UniBCT(settings("UniBCT", old_side, refine_epoch=[2, 5], lamb=0.5, tau=0.4, batch_size=7), DATA)
    assert not method.influence.prototypes.any()
    expected = torch.zeros(7, DIM).double()
    for epoch in range(8):
        backbone, dataset = make_backbone(seed=100 + epoch), Pictures()
        method.start_epoch(epoch, backbone, dataset)
        if epoch in (2, 5):
            later = slow_prototypes(backbone, 0.5, 0.4)
            assert (later - expected).abs().max() > 0.01
            expected = later
            assert sorted(sum(dataset.asked, [])) == list(range(IMAGES)) and max(map(len, dataset.asked)) == 7
        else:
            assert not dataset.asked
        torch.testing.assert_close(method.influence.prototypes.double(), expected, rtol=0, atol=1e-5)


def test_the_second_term_begins_with_the_first_listed_epoch_in_any_order_of_the_list(old_side, one_rank):
    """It depends on the epoch, not on step or progress."""
    method = UniBCT(settings("UniBCT", old_side, refine_epoch=[5, 2]), DATA)
    new, labels, index = batches()[0]
    terms = [set(method(make_head(), new, labels, index, Clock(epoch, 7 * (8 - epoch), 0.9))) for epoch in range(8)]
    assert terms == 2 * [{"cls"}] + 6 * [{"cls", "bct"}]


def test_the_default_refines_in_epochs_10_and_20(old_side, one_rank):
    method, seen = UniBCT(settings("UniBCT", old_side), DATA), []
    for epoch in range(35):
        dataset = Pictures()
        method.start_epoch(epoch, make_backbone(), dataset)
        seen += [epoch] if dataset.asked else []
    assert seen == [10, 20]


def test_refinement_uses_the_statistics_of_training_and_leaves_them_alone(old_side, one_rank):
    """BatchNorm uses its running statistics, and there is no dropout: the features are those of evaluation."""
    backbone = make_backbone()
    norm = torch.nn.BatchNorm1d(DIM)
    norm.running_mean.copy_(torch.linspace(-1, 1, DIM)), norm.running_var.copy_(torch.linspace(0.5, 2, DIM))
    whole = torch.nn.Sequential(*backbone, norm, torch.nn.Dropout(0.5)).train()
    before = {key: value.clone() for key, value in whole.state_dict().items()}
    method = UniBCT(settings("UniBCT", old_side, refine_epoch=[0], tau=0.3), DATA)
    method.start_epoch(0, whole, Pictures())
    assert all(torch.equal(value, before[key]) for key, value in whole.state_dict().items())
    weight, bias = (value.detach().double() for value in backbone[1].parameters())
    new = embedded(pictures(range(IMAGES)), weight, bias)
    new = (new - norm.running_mean) / torch.sqrt(norm.running_var.double() + 1e-5)
    expected = refined_rows(new.numpy(), 0.9, 0.3, False)
    torch.testing.assert_close(method.influence.prototypes.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows, numbers", [(13, 1 << 24), (1, 1 << 24), (10**6, 30)])
def test_blocks_of_classes_and_parts_of_a_block_change_nothing(rows, numbers, old_side, one_rank, monkeypatch):
    """With few images at once, or few neighbour matrices at once, the prototypes are the same."""
    monkeypatch.setattr(refinement, "class_blocks", partial(class_blocks, rows=rows))
    monkeypatch.setattr(refinement, "MAX_NUMBERS_SOLVED", numbers)
    method, backbone = UniBCT(settings("UniBCT", old_side, refine_epoch=[0], tau=0.3), DATA), make_backbone()
    method.start_epoch(0, backbone, Pictures())
    torch.testing.assert_close(method.influence.prototypes.double(), slow_prototypes(backbone, 0.9, 0.3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("as_published", [False, True])
def test_a_class_of_one_image_keeps_its_old_feature(as_published, old_side, one_rank):
    features, labels = old_features()
    method = UniBCT(settings("UniBCT", old_side, refine_epoch=[0], as_published=as_published), DATA)
    method.start_epoch(0, make_backbone(), Pictures())
    row = features[np.flatnonzero(labels == 6)[0]].astype(np.float64)
    expected = row if as_published else row / np.linalg.norm(row)
    np.testing.assert_allclose(method.influence.prototypes[6], expected, rtol=1e-5)
