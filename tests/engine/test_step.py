"""Updates of the trainer against the same updates by hand in float64: terms, mirroring, accumulation, clip, SGD, AdamW."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from engine import trainer
from engine.distributed import Ranks
from engine.method import Clock, Method
from engine.trainer import SharedScaler, Trainer
from losses import ArcFace, PartialFC, SoftmaxHead
from records.facts import Facts

DIM, CLASSES, IMAGES, BATCH, SIDE, SCALE, MARGIN = 6, 7, 20, 5, 4, 8.0, 0.5
TARGET = torch.randn(IMAGES, DIM, generator=torch.Generator().manual_seed(1))
RATES = (0.1, 0.03, 0.07, 0.02, 0.05, 0.08)         # learning rate of each step; an update uses that of its last step


class Pull(Method):
    """The head's term, and one that has a parameter of its own and depends on the index and the clock."""

    def __init__(self, cfg):
        super().__init__(cfg, Facts(IMAGES, CLASSES))
        self.turn = nn.Parameter(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(2)))

    def forward(self, head, new, labels, index, clock):
        return {"cls": head(new, labels), "pull": (0.3 + clock.progress) * (new @ self.turn - TARGET[index]).square().mean()}


def settings(**more) -> SimpleNamespace:
    return SimpleNamespace(**{**dict(optimizer="sgd", lr=9.0, momentum=0.9, weight_decay=0.05, fp16=False, clip=1e9,
                                     gradient_acc=1), **more})


def make(cfg, head: str, device: str = "cpu") -> Trainer:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, DIM))
    rows = {"arc": PartialFC, "softmax": SoftmaxHead}[head](ArcFace(SCALE, MARGIN), DIM, CLASSES, seed=5)
    with torch.no_grad():
        rows.weight.mul_(0.5 / rows.weight.std())       # large enough for cosines to matter
    return Trainer(cfg, Ranks(0, 1, torch.device(device)), backbone, Pull(cfg), rows)


def weights_of(made: Trainer) -> dict[str, torch.Tensor]:
    parts = {"backbone": made.plain_backbone, "method": made.plain_method, "head": made.head}
    return {f"{part}.{name}": p.detach().double().clone() for part, module in parts.items()
            for name, p in module.named_parameters()}


def batch(step: int) -> tuple[torch.Tensor, ...]:
    """(images, labels, index, flip) of a step, all random."""
    draw = torch.Generator().manual_seed(100 + step)
    return (torch.randint(256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8, generator=draw),
            torch.randint(CLASSES, (BATCH,), generator=draw), torch.randperm(IMAGES, generator=draw)[:BATCH],
            torch.tensor([True, False, False, True, step % 2 == 0]))


# by hand, in float64

def terms_by_hand(w: dict, step: int, head: str, progress: float) -> dict[str, torch.Tensor]:
    images, labels, index, flip = batch(step)
    cls, pull = 0.0, 0.0
    for image, y, i, mirror in zip(images.numpy(), labels.tolist(), index.tolist(), flip.tolist(), strict=True):
        image = image[:, ::-1] if mirror else image
        x = torch.from_numpy((np.moveaxis(image, 2, 0).astype(np.float64) - 127.5) / 127.5).reshape(-1)
        new = w["backbone.1.weight"] @ x + w["backbone.1.bias"]
        if head == "softmax":
            logits = [row @ new + b for row, b in zip(w["head.weight"], w["head.bias"], strict=True)]
        else:
            cos = [(row / row.norm()) @ (new / new.norm()) for row in w["head.weight"]]
            angle = torch.arccos(cos[y])
            target = torch.cos(angle + MARGIN) if angle + MARGIN <= math.pi else cos[y] - MARGIN * math.sin(MARGIN)
            logits = [SCALE * (target if c == y else cos[c]) for c in range(CLASSES)]
        cls = cls + torch.stack(logits).logsumexp(0) - logits[y]
        pull = pull + (new @ w["method.turn"] - TARGET[i].double()).square().sum()
    return {"cls": cls / BATCH, "pull": (0.3 + progress) * pull / (BATCH * DIM)}


def inside_the_norm(name: str, head: str) -> bool:
    """Whether the gradient of this parameter counts in the norm of config.clip, and is scaled by it."""
    return name.startswith(("backbone.", "method.")) or name.startswith("head.") and head == "softmax"


def clipped(gradients: dict, clip: float, head: str) -> dict:
    norm = math.sqrt(sum(float(g.square().sum()) for name, g in gradients.items() if inside_the_norm(name, head)))
    return {name: g * min(1.0, clip / norm) if inside_the_norm(name, head) else g for name, g in gradients.items()}


def sgd(w, g, state: dict, cfg, lr: float):
    state["momentum"] = cfg.momentum * state.get("momentum", 0.0) + g + cfg.weight_decay * w
    return w - lr * state["momentum"]


def adamw(w, g, state: dict, cfg, lr: float):
    state["first"] = 0.9 * state.get("first", 0.0) + 0.1 * g
    state["second"] = 0.999 * state.get("second", 0.0) + 0.001 * g**2
    state["n"] = state.get("n", 0) + 1
    first, second = state["first"] / (1 - 0.9 ** state["n"]), state["second"] / (1 - 0.999 ** state["n"])
    return w - lr * cfg.weight_decay * w - lr * first / (second.sqrt() + 1e-8)


def by_hand(cfg, w: dict, head: str) -> list[tuple[dict, dict]]:
    """(terms, weights after the step) of each step."""
    rule, state, total, out = {"sgd": sgd, "adamw": adamw}[cfg.optimizer], {name: {} for name in w}, {}, []
    for step, lr in enumerate(RATES):
        leaves = {name: value.clone().requires_grad_() for name, value in w.items()}
        terms = terms_by_hand(leaves, step, head, step / len(RATES))
        sum(terms.values()).backward()
        total = {name: total.get(name, 0) + leaf.grad / cfg.gradient_acc for name, leaf in leaves.items()}
        if (step + 1) % cfg.gradient_acc == 0:
            gradients = clipped(total, cfg.clip, head)
            w = {name: rule(value, gradients[name], state[name], cfg, lr) for name, value in w.items()}
            total = {}
        out.append(({name: value.detach() for name, value in terms.items()}, w))
    return out


CASES = {"sgd": ({}, "arc"), "softmax head": ({}, "softmax"), "no momentum": (dict(momentum=0.0), "arc"),
         "accumulated": (dict(gradient_acc=3), "arc"), "clipped": (dict(clip=0.5), "arc"),
         "clipped softmax head": (dict(clip=0.5), "softmax"),
         "clipped and accumulated": (dict(clip=0.2, gradient_acc=2, weight_decay=0.0), "softmax"),
         "adamw": (dict(optimizer="adamw"), "arc"), "adamw accumulated": (dict(optimizer="adamw", gradient_acc=2), "softmax")}


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "GradScaler"])
@pytest.mark.parametrize("case", CASES)
def test_updates_equal_those_by_hand(case, scaled, one_rank, monkeypatch):
    """Six steps: all named terms, and every weight of backbone, method and head after each; also with a GradScaler."""
    more, head = CASES[case]
    cfg = settings(**more)
    if scaled:
        monkeypatch.setattr(trainer, "SharedScaler", lambda *_, **__: SharedScaler("cpu", init_scale=2.0**10))
    made = make(cfg, head)
    assert made.scaler.is_enabled() == scaled
    expected = by_hand(cfg, weights_of(made), head)
    for step, lr in enumerate(RATES):
        update = (step + 1) % cfg.gradient_acc == 0
        terms = made.step(*batch(step), Clock(0, step, step / len(RATES)), lr, update)
        for name, value in expected[step][0].items():
            torch.testing.assert_close(terms.pop(name).double(), value, rtol=1e-4, atol=1e-5)
        assert terms == {}
        for name, value in weights_of(made).items():
            torch.testing.assert_close(value, expected[step][1][name], rtol=1e-4, atol=2e-5, msg=lambda text, name=name,
                                       step=step: f"step {step}, {name}: {text}")


def test_clip_is_an_upper_bound(one_rank):
    """A gradient whose norm is below config.clip is not changed, one above it is scaled to that norm."""
    found = {}
    for clip in (0.2, 1e3, 1e9):
        made = make(settings(clip=clip), "arc")
        made.step(*batch(0), Clock(0, 0, 0.0), 0.1)
        found[clip] = weights_of(made)["backbone.1.weight"]
    assert torch.equal(found[1e3], found[1e9]) and (found[0.2] - found[1e9]).abs().max() > 0.01


def test_terms_are_detached_and_a_step_without_update_changes_nothing(one_rank):
    made = make(settings(gradient_acc=2), "arc")
    before = weights_of(made)
    terms = made.step(*batch(0), Clock(0, 0, 0.0), 0.1, False)
    assert not any(value.requires_grad for value in terms.values())
    assert all(torch.equal(value, before[name]) for name, value in weights_of(made).items())


def test_every_part_has_its_parameter_group_and_what_is_frozen_has_none(one_rank):
    cfg = settings()
    made = make(cfg, "softmax")
    made.plain_backbone[1].bias.requires_grad_(False)
    groups = [group["params"] for group in trainer.make_optimizer(cfg, made.plain_backbone, made.plain_method,
                                                                  made.head).param_groups]
    backbone, method, head = made.plain_backbone[1].weight, made.plain_method.turn, (made.head.weight, made.head.bias)
    assert [[id(p) for p in group] for group in groups] == [[id(backbone)], [id(method)], [id(p) for p in head]]


@pytest.mark.parametrize("fp16, device, enabled", [(True, "cuda", True), (False, "cuda", False), (True, "cpu", False)])
def test_the_scaler_is_for_float16_on_a_gpu(fp16, device, enabled, one_rank, monkeypatch):
    """bfloat16 on a CPU has float32's range."""
    asked = []

    def scaler(kind, enabled):
        asked.append((kind, enabled))
        return SharedScaler("cpu", enabled=enabled)
    monkeypatch.setattr(trainer, "SharedScaler", scaler)
    monkeypatch.setattr(trainer, "BadSteps", lambda *args: asked.append(args))
    make(settings(fp16=fp16, gradient_acc=3), "arc", device)
    assert asked == [(device, enabled), (torch.device(device), enabled, 3)]
