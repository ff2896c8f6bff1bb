"""What only a second rank shows of a method: its classes, rows and draws.  7 classes are 4 and 3."""

from pathlib import Path

import pytest
import torch
from method_loops import ball, bct_rows, influence_loss, is_credible, old_unit, refined_rows, slow_terms
from method_steps import slice_of_this_rank
from method_toys import (
    CLASSES,
    DATA,
    IMAGES,
    METHODS,
    START,
    Pictures,
    batches,
    credible_marks,
    embedded,
    make_backbone,
    make_head,
    make_method,
    pictures,
    settings,
)
from ranks import on_ranks

from BCT_Methods.AdvBCT.train import AdvBCT
from BCT_Methods.BCT.train import BCT
from BCT_Methods.MixBCT.train import MixBCT
from BCT_Methods.NCCL.train import NCCL
from BCT_Methods.UniBCT.train import UniBCT
from engine.method import Clock

HALF = 5                # rows of each rank
CLOCK = Clock(3, 17, 0.22)
MORE = {"NCCL": {"beta": 0.5, "credible_only": True, "scale": 8.0}, "AdvBCT": {"threshold": 0.9}}
NEW, LABELS, INDEX = batches()[0]


def own_rows(rows: torch.Tensor) -> torch.Tensor:
    return rows[slice_of_this_rank()]


def step_of(name: str, folder: Path) -> dict:
    """A method's terms of the global batch, and the gradients of this rank's rows and of its class vectors."""
    method, _ = make_method(name, folder, **MORE.get(name, {}))
    new, head = own_rows(NEW).clone().requires_grad_(), make_head()
    terms = method(head, new, own_rows(LABELS), own_rows(INDEX), CLOCK)
    to_new, to_weight = torch.autograd.grad(sum(terms.values()), [new, head.weight])
    return {"terms": {key: value.detach() for key, value in terms.items()}, "new": to_new, "to_weight": to_weight,
            "weight": head.weight.detach(), "parameters": {key: p.detach() for key, p in method.named_parameters()}}


def all_of_this_rank(folder: Path) -> dict:
    new, clock = own_rows(NEW).clone().requires_grad_(), Clock(0, 4, 0.1)
    bct = BCT(settings("BCT", folder, old_classifier=str(folder / "old"), scenario="EXdata", bct_scale=9.0), DATA)
    term = bct.influence(new, own_rows(LABELS))
    mix, adv = MixBCT(settings("MixBCT", folder, mix_ratio=0.4), DATA), AdvBCT(settings("AdvBCT", folder, threshold=0.9), DATA)
    dataset, uni = Pictures(), UniBCT(settings("UniBCT", folder, refine_epoch=[0]), DATA)
    uni.start_epoch(0, make_backbone(), dataset)
    credible = NCCL(settings("NCCL", folder, credible_only=True, scale=8.0), DATA).credible
    return {"prototypes": bct.influence.prototypes, "classes": bct.influence.classes,
            "bct": (term.detach(), *torch.autograd.grad(term, [new])),
            "credible": credible(old_unit(range(IMAGES)).float()),
            "mix": mix.replaced(torch.arange(IMAGES), clock), "adv": (adv.elastic.detach(), adv.centres, adv.radii, adv.is_ball),
            "read": sorted(sum(dataset.asked, [])), "refined": uni.influence.prototypes,
            "steps": {name: step_of(name, folder) for name in METHODS}}


@pytest.fixture(scope="module")
def ranks(old_side) -> list[dict]:
    return on_ranks(2, all_of_this_rank, old_side)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_on_two_ranks_is_its_equation_on_the_global_batch(name, ranks, tmp_path):
    """DDP takes the mean over two ranks: a rank's own rows carry twice the gradient, its class vectors the whole one.

    A term may be that of the rank's own rows (L2); the mean over the ranks is compared.
    """
    found = [rank["steps"][name] for rank in ranks]
    cfg = settings(name, tmp_path, **START.get(name, {}), **MORE.get(name, {}))
    new, weight = NEW.double().requires_grad_(), torch.cat([rank["weight"] for rank in found]).double().requires_grad_()
    to_new = torch.cat([rank["new"] for rank in found]).double() / 2
    parameters = {key: value.double() for key, value in found[1]["parameters"].items()}
    terms = slow_terms(name, cfg, CLOCK, (new, LABELS, INDEX), weight, parameters, [], ~to_new.any(1))
    slow = torch.autograd.grad(sum(terms.values()), [new, weight])
    for key, value in terms.items():
        mean = sum(rank["terms"][key].double() for rank in found) / 2
        torch.testing.assert_close(mean, value.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(to_new, slow[0], rtol=1e-3, atol=2e-6)
    torch.testing.assert_close(torch.cat([rank["to_weight"] for rank in found]).double(), slow[1], rtol=1e-3, atol=2e-6)


def test_the_second_rank_holds_the_prototypes_of_the_last_classes(ranks):
    """Five old classes: the fifth is the second rank's first, from the old classifier; the others are means of the file."""
    rows = bct_rows(True)
    for rank, classes in zip(ranks, (slice(0, 4), slice(4, 7)), strict=True):
        assert rank["classes"] == classes
        torch.testing.assert_close(rank["prototypes"].double(), rows[classes], rtol=0, atol=1e-6)
    new = NEW.double().requires_grad_()
    slow = influence_loss(new, LABELS, rows, 9.0)
    expected = 2 * torch.autograd.grad(slow, new)[0]            # DDP takes the mean over two ranks
    for number, rank in enumerate(ranks):
        torch.testing.assert_close(rank["bct"][0].double(), slow.detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(rank["bct"][1].double(), expected[number * HALF:][:HALF], rtol=1e-4, atol=1e-6)


def test_the_entropy_of_nccls_filter_is_over_the_classes_of_both_ranks(ranks):
    expected = [is_credible(row, 8.0) for row in old_unit(range(IMAGES))]
    assert 10 < sum(expected) < IMAGES - 10
    for rank in ranks:
        assert rank["credible"].tolist() == expected


def test_each_rank_draws_for_itself_in_mixbct(ranks):
    """On the same batch both draw 40 % of the rows, all credible, but different ones."""
    first, second = (set(rank["mix"].tolist()) for rank in ranks)
    assert len(first) == len(second) == 19 and first != second
    assert first | second <= set(credible_marks().nonzero()[0].tolist())


def test_advbct_has_the_balls_of_all_classes_and_the_same_radii_on_both_ranks(ranks):
    """Although each rank reads only half of the classes."""
    balls = [ball(c) for c in range(CLASSES)]
    for one, other in zip(ranks[0]["adv"], ranks[1]["adv"], strict=True):
        assert torch.equal(one, other) and len(one) == CLASSES
    _, centres, radii, is_ball = ranks[1]["adv"]
    torch.testing.assert_close(centres.double(), torch.stack([centre for centre, _ in balls]), rtol=0, atol=1e-6)
    torch.testing.assert_close(radii.double(), torch.tensor([kept[-1] for _, kept in balls]).double(), rtol=0, atol=1e-6)
    assert is_ball.tolist() == [len(kept) > 1 for _, kept in balls]


def test_each_rank_reads_the_images_of_its_own_classes_for_unibct_and_refines_these(ranks):
    weight, bias = (value.detach().double() for value in make_backbone()[1].parameters())
    rows = refined_rows(embedded(pictures(range(IMAGES)), weight, bias).numpy(), 0.9, 0.05, False)
    torch.testing.assert_close(torch.cat([rank["refined"] for rank in ranks]).double(), rows, rtol=0, atol=1e-5)
    labels = Pictures().labels()
    for rank, classes in zip(ranks, (range(4), range(4, 7)), strict=True):
        assert rank["read"] == [i for i in range(IMAGES) if labels[i] in classes]
