"""AdvBCT's discriminator under config.clip: twenty steps in float64 equal a loop by hand, and none of its units dies."""

import math

import pytest
import torch
from method_loops import ball, slow_terms
from method_toys import CLASSES, DATA, IMAGES, batches, embedded, make_backbone, make_head, old_features, pictures, settings

from BCT_Methods.AdvBCT.train import AdvBCT
from engine.method import Clock
from engine.trainer import Trainer

STEPS, EPOCHS = 20, 35
TOLERANCE = 1e-9        # sums of hundreds of float64 terms, in two orders, over twenty steps


def by_hand(cfg, start: dict[str, torch.Tensor], batch: tuple) -> list[tuple[dict, float]]:
    """(weights, gradient norm before the clip) after each step: SGD with momentum and decay, one norm over all but the head."""
    weights, momenta, out = start, {key: torch.zeros_like(value) for key, value in start.items()}, []
    _, labels, index = batch
    for step in range(STEPS):
        p = {key: value.clone().requires_grad_() for key, value in weights.items()}
        own = {key: value for key, value in p.items() if key not in ("weight", "bias", "head")}
        new = embedded(pictures(index), p["weight"], p["bias"])
        replaced = torch.zeros(len(index)).bool()
        terms = slow_terms("AdvBCT", cfg, clock_of(step), (new, labels, index), p["head"], own, [], replaced)
        gradients = dict(zip(p, torch.autograd.grad(sum(terms.values()), p.values()), strict=True))
        norm = math.sqrt(sum(float(g.square().sum()) for key, g in gradients.items() if key != "head"))
        for key, g in gradients.items():
            scaled = g if key == "head" else g * min(1.0, cfg.clip / (norm + 1e-6))      # torch adds 1e-6
            momenta[key] = cfg.momentum * momenta[key] + scaled + cfg.weight_decay * weights[key]
        weights = {key: value - cfg.lr * momenta[key] for key, value in weights.items()}
        out.append((weights, norm))
    return out


def clock_of(step: int) -> Clock:
    return Clock(step // 10, step, step / (10 * EPOCHS))


def test_twenty_steps_in_float64_equal_a_loop(old_side, one_rank, monkeypatch):
    """Every weight after every step; the norm exceeds config.clip, mostly because of the discriminator."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)         # what the project computes in float32
    cfg, batch = settings("AdvBCT", old_side), batches()[0]
    method, backbone, head = AdvBCT(cfg, DATA).double(), make_backbone().double(), make_head().double()
    for label in range(CLASSES):        # the project's own are float32; other tests compare those
        method.centres[label], distances = ball(label)
        method.radii[label] = max(distances)
    trainer = Trainer(cfg, one_rank, backbone, method, head)
    learnt = {"weight": backbone[1].weight, "bias": backbone[1].bias, "head": head.weight, **dict(method.named_parameters())}
    expected = by_hand(cfg, {key: value.detach().clone() for key, value in learnt.items()}, batch)
    assert sum(norm > cfg.clip for _, norm in expected) > STEPS / 2
    _, labels, index = batch
    for step, (weights, _) in enumerate(expected):
        trainer.step(pictures(index), labels, index, torch.zeros(len(index)).bool(), clock_of(step), cfg.lr)
        for key, value in weights.items():
            error = (learnt[key].detach() - value).abs().max()
            assert error < TOLERANCE, (step, key, float(error))


@pytest.mark.parametrize("seed", [666, 1])
def test_no_hidden_unit_dies_in_fifty_steps(seed, old_side, one_rank):
    """At the default settings; a unit is dead if it is 0 for every row.  Without the clip 6 and 11 units are dead."""
    cfg = settings("AdvBCT", old_side, seed=seed)
    torch.manual_seed(1)
    method, backbone, head = AdvBCT(cfg, DATA), make_backbone(), make_head()
    trainer = Trainer(cfg, one_rank, backbone, method, head)
    hidden: list[torch.Tensor] = []
    method.discriminator[2].register_forward_hook(lambda module, given, out: hidden.append(out.detach()))
    for step in range(50):
        hidden.clear()
        index = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(step))[:24]
        labels = torch.from_numpy(old_features()[1])[index]
        trainer.step(pictures(index), labels, index, torch.zeros(24).bool(), Clock(0, step, step / (50 * EPOCHS)), cfg.lr)
        assert int((torch.cat(hidden) == 0).all(0).sum()) == 0
