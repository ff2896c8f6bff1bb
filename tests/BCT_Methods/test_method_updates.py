"""One update of the trainer with each method: every parameter moves down the gradient of the sum of the terms."""


import pytest
import torch
from method_loops import margin_loss, slow_terms
from method_toys import METHODS, batches, embedded, make_backbone, make_head, make_method, pictures

from engine.distributed import Ranks
from engine.method import Clock
from engine.trainer import Trainer

LR, DECAY = 0.05, 0.1
CLOCK = Clock(3, 17, 0.22)
MORE = {"NCCL": {"beta": 0.5}, "L2": {"threshold": 0.5}, "MixBCT": {"mix_ratio": 0.4}}


def learning(backbone, method, head) -> dict[str, torch.Tensor]:
    return {"weight": backbone[1].weight, "bias": backbone[1].bias, "head": head.weight, **dict(method.named_parameters())}


@pytest.mark.parametrize("name", METHODS)
def test_one_step_moves_everything_by_lr_times_gradient_and_decay(name, old_side, one_rank):
    """The new embeddings are those of the images; AdvBCT's radii and discriminator are in the optimiser, too."""
    method, cfg = make_method(name, old_side, lr=1.0, weight_decay=DECAY, clip=1e9, **MORE.get(name, {}))
    backbone, head, (_, labels, index) = make_backbone(), make_head(), batches()[0]
    trainer = Trainer(cfg, Ranks(0, 1, torch.device("cpu")), backbone, method, head)
    before = {key: value.detach().double() for key, value in learning(backbone, method, head).items()}
    replaced = torch.zeros(len(index), dtype=torch.bool)
    if name == "MixBCT":
        replaced[method.replaced(index, CLOCK)] = True

    found = trainer.step(pictures(index), labels, index, torch.zeros(len(index), dtype=torch.bool), CLOCK, LR)

    p = {key: value.clone().requires_grad_() for key, value in before.items()}
    own = {key: value for key, value in p.items() if key not in ("weight", "bias", "head")}
    new = embedded(pictures(index), p["weight"], p["bias"])
    terms = slow_terms(name, cfg, CLOCK, (new, labels, index), p["head"], own, [], replaced)
    gradients = dict(zip(p, torch.autograd.grad(sum(terms.values()), p.values()), strict=True))
    assert found.keys() == terms.keys() and (name == "AdvBCT") == (len(own) > 0)
    for key, value in terms.items():
        torch.testing.assert_close(found[key].double(), value.detach(), rtol=1e-5, atol=1e-6)
    for key, value in learning(backbone, method, head).items():
        expected = before[key] - LR * (gradients[key] + DECAY * before[key])
        torch.testing.assert_close(value.detach().double(), expected, rtol=1e-4, atol=1e-6)
        assert gradients[key].abs().max() > 1e-3 or key == "discriminator.0.bias", key      # BatchNorm makes that gradient 0


def test_only_the_sampled_classes_move_by_the_trainers_rate_and_decay(old_side, one_rank):
    """The batch has classes 0 and 4; four of seven classes take part, and the loss is the softmax over these."""
    method, cfg = make_method("MixBCT", old_side, mix_ratio=0.0, lr=1.0, weight_decay=DECAY, clip=1e9)
    backbone, head, (_, labels, index) = make_backbone(), make_head(sample_rate=0.6), batches()[0]
    labels, index = labels[(labels == 0) | (labels == 4)], index[(labels == 0) | (labels == 4)]
    trainer = Trainer(cfg, Ranks(0, 1, torch.device("cpu")), backbone, method, head)
    before = head.weight.double()
    new = embedded(pictures(index), *(value.detach().double() for value in backbone[1].parameters()))
    trainer.step(pictures(index), labels, index, torch.zeros(len(index), dtype=torch.bool), CLOCK, LR)
    rows = head.sampler.rows.tolist()
    assert len(rows) == 4 and {0, 4} < set(rows)
    weight = before[rows].requires_grad_()
    gradient = torch.autograd.grad(margin_loss(new, [rows.index(y) for y in labels], weight), weight)[0]
    expected = before.clone()
    expected[rows] -= LR * (gradient + DECAY * before[rows])
    torch.testing.assert_close(head.weight.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_an_epoch_without_refinement_changes_nothing(name, old_side, one_rank):
    method = make_method(name, old_side)[0]
    before, backbone = {key: value.clone() for key, value in method.state_dict().items()}, make_backbone(seed=9)
    for epoch in (0, 4, 10, 20):
        method.start_epoch(epoch, backbone, None)
    assert backbone.training and all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
