"""Each setting of each method, at a value that is not its default: terms and gradients are the equation's with that value."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from method_loops import slow_terms
from method_toys import (
    BATCH,
    CLASSES,
    DATA,
    DIM,
    METHODS,
    ROOT,
    batches,
    credible_marks,
    make_head,
    make_method,
    settings,
)

from engine.method import Clock
from utils.config import run_config

# Epoch, step and progress are independent here, so that a test sees if one is used in place of another.
CLOCKS = [Clock(3, 17, 0.07), Clock(3, 18, 0.22)]
CASES = [
    ("MixBCT", {"mix_ratio": 0.25}), ("MixBCT", {"mix_ratio": 0.8}),
    ("L2", {"l2_weight": 3.5}), ("L2", {"threshold": 1.2}),
    ("BCT", {"bct_scale": 9.0}), ("BCT", {"bct_scale": 1.0}),
    *(("BCT", {"old_classifier": "old", "scenario": scenario}) for scenario in ("EXclass", "EXdata", "OPdata")),
    ("UniBCT", {"bct_scale": 9.0}), ("UniBCT", {"lamb": 0.4}), ("UniBCT", {"tau": 0.6}),
    ("UniBCT", {"as_published": True, "tau": 5.0}), ("UniBCT", {"refine_epoch": [4]}),
    ("NCCL", {"alpha": 0.3}), ("NCCL", {"beta": 0.7}), ("NCCL", {"tau": 0.2, "beta": 0.5}), ("NCCL", {"queue_size": 13}),
    ("NCCL", {"credible_only": True, "scale": 8.0, "beta": 0.5}), ("NCCL", {"as_published": True, "queue_size": 33, "beta": 0.5}),
    ("AdvBCT", {"threshold": 0.9}), ("AdvBCT", {"p2s_weight": 1.7}), ("AdvBCT", {"adv_weight": 2.3}),
    ("AdvBCT", {"num_epoch": 5}),
]


def steps(method, head) -> list[dict]:
    """Terms and gradients of their sum in two steps; the class vectors move between the steps."""
    out = []
    for clock, (new, labels, index) in zip(CLOCKS, batches(), strict=True):
        new = new.requires_grad_()
        parameters = {"head": head.weight, **dict(method.named_parameters())}
        weight = head.weight.detach().double()
        terms = method(head, new, labels, index, clock)
        gradients = torch.autograd.grad(sum(terms.values()), [new, *parameters.values()])
        out.append({"terms": {key: value.detach() for key, value in terms.items()}, "weight": weight,
                    "gradients": dict(zip(["new", *parameters], gradients, strict=True))})
        with torch.no_grad():
            head.weight.add_(0.2 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(15)))
    return out


@pytest.mark.parametrize("name, more", CASES, ids=lambda case: case if isinstance(case, str) else "-".join(case))
def test_terms_and_gradients_follow_the_setting(name, more, old_side, one_rank):
    method, cfg = make_method(name, old_side, **more)
    parameters = {key: value.detach().double() for key, value in method.named_parameters()}
    found, memory = steps(method, make_head()), []
    for clock, (new, labels, index), step in zip(CLOCKS, batches(), found, strict=True):
        new, weight = new.double().requires_grad_(), step["weight"].requires_grad_()
        p = {key: value.clone().requires_grad_() for key, value in parameters.items()}
        replaced = ~step["gradients"]["new"].any(1)
        if name == "MixBCT":                # test_mixbct_draw.py tests which rows these are
            assert replaced.sum() == min(int(cfg.mix_ratio * BATCH), credible_marks()[index].sum())
        terms = slow_terms(name, cfg, clock, (new, labels, index), weight, p, memory, replaced)
        slow = torch.autograd.grad(sum(terms.values()), [new, weight, *p.values()])
        assert terms.keys() == step["terms"].keys()
        for key, value in terms.items():
            torch.testing.assert_close(step["terms"][key].double(), value.detach(), rtol=1e-5, atol=1e-6)
        for gradient, expected in zip(step["gradients"].values(), slow, strict=True):
            torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_a_method_has_a_case(name):
    defaults = run_config(ROOT / f"BCT_Methods/{name}/configs/base.py")
    varied = {key for case, more in CASES if case == name for key, value in more.items() if value != defaults.get(key)}
    assert defaults.keys() <= varied


def test_each_case_differs_from_the_defaults_on_the_toy_data(old_side, one_rank):
    """Each case changes the gradient by far more than the tolerance; otherwise it would test nothing."""
    plain = {name: steps(make_method(name, old_side)[0], make_head()) for name in METHODS}
    for name, more in CASES:
        found = steps(make_method(name, old_side, **more)[0], make_head())
        moved = max(float((a["gradients"]["new"] - b["gradients"]["new"]).abs().max())
                    for a, b in zip(found, plain[name], strict=True))
        assert moved > 1e-4, (name, more)


def test_elastic_radii_start_uniformly_in_minus_one_to_one_by_the_seed(old_side, one_rank):
    def drawn(seed: int) -> np.ndarray:
        return METHODS["AdvBCT"](settings("AdvBCT", old_side, seed=seed), replace(DATA, classes=2000)).elastic.detach().numpy()
    torch.manual_seed(1)
    first = drawn(3)
    torch.manual_seed(2)
    assert np.array_equal(first, drawn(3)) and abs(np.corrcoef(first, drawn(4))[0, 1]) < 0.1
    assert -1 <= first.min() < -0.99 and 0.99 < first.max() < 1 and abs(first.mean()) < 0.05 and abs(first.std() - 3**-0.5) < 0.02


def test_the_discriminator_has_100_hidden_units_and_two_outputs(old_side, one_rank):
    discriminator = METHODS["AdvBCT"](settings("AdvBCT", old_side), DATA).discriminator
    shapes = {key: tuple(p.shape) for key, p in discriminator.named_parameters()}
    assert shapes == {"0.weight": (100, DIM), "0.bias": (100,), "1.weight": (100,), "1.bias": (100,), "3.weight": (2, 100),
                      "3.bias": (2,)}


def test_half_precision_reaches_the_prototypes_product(old_side, one_rank):
    """With config.fp16 the term is close to the float32 one, but not equal."""
    new, labels, index = batches()[0]
    terms = [METHODS["BCT"](settings("BCT", old_side, fp16=fp16), DATA)(make_head(), new, labels, index, CLOCKS[0])["bct"]
             for fp16 in (False, torch.bfloat16)]
    assert 1e-5 < abs(terms[1] / terms[0] - 1) < 2e-2


@pytest.mark.parametrize("fp16", [False, True])
def test_published_logits_are_clamped_to_plus_minus_one_in_half_precision_only(fp16, old_side, one_rank):
    """NCCL as published: g after margin and scale, without gradient; under fp16 clamped to [-1, 1]."""
    method = METHODS["NCCL"](settings("NCCL", old_side, as_published=True, queue_size=20, fp16=fp16), DATA)
    cosines, labels = torch.linspace(-0.9, 0.9, 2 * CLASSES).view(2, CLASSES).requires_grad_(), torch.tensor([2, -1])
    found = method.logits(make_head(), cosines, labels)
    slow = 8 * cosines.detach().double()
    slow[0, 2] = 8 * (torch.cos(torch.arccos(cosines[0, 2].detach().double()) + 0.3) - 0.1)
    torch.testing.assert_close(found.double(), slow.clamp(-1, 1) if fp16 else slow, rtol=1e-5, atol=1e-6)
    assert not found.requires_grad and slow.abs().max() > 1
