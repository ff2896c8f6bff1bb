"""The learning rate and three whole training steps against the golden arrays 10_lr and 13_train_steps."""

from types import SimpleNamespace

import pytest
import torch
from golden_arrays import golden, near, ruled
from golden_parts import MixBCTOnArrays, unit_rows

from backbones import get_model
from engine.method import Clock
from engine.schedule import learning_rate
from engine.trainer import Trainer
from losses import ArcFace, PartialFC


@pytest.mark.parametrize("name, warmup", [("0", 0), ("10", 10), ("minus3", -3)])
def test_learning_rate(name, warmup):
    g = golden("10_lr")
    found = [learning_rate(step, float(g["base_lr"]), int(g["max_steps"]), warmup, power=2) for step in range(101)]
    near(found, g[f"lr_warmup_{name}"], 1e-12)


@pytest.mark.long
def test_three_training_steps(monkeypatch, one_rank):
    g = golden("13_train_steps")
    norms = []
    clip = Trainer.clip_gradients
    monkeypatch.setattr(Trainer, "clip_gradients", lambda trainer: norms.append(clip(trainer)) or norms[-1])
    backbone = get_model("r18", fp16=False, num_features=64)
    backbone.load_state_dict(ruled(backbone.state_dict(), 1.0))
    head = PartialFC(ArcFace(), 64, 6)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(g["pfc_weight"]))
    rows = [torch.from_numpy(g[f"step{step}_replaced_rows"]) for step in range(3)]
    method = MixBCTOnArrays(unit_rows(g["old_feature_raw"]), torch.from_numpy(g["credible"]), rows)
    cfg = SimpleNamespace(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, fp16=False, gradient_acc=1,
                          clip=5.0)
    trainer = Trainer(cfg, SimpleNamespace(device=torch.device("cpu")), backbone.train(), method, head)
    images = torch.from_numpy(g["img_u8"]).permute(0, 2, 3, 1).contiguous()
    for step, accept in enumerate((1e-4, 2e-3, 1e-2)):
        lr = learning_rate(step, 0.1, 10, power=2)
        near(lr, g[f"step{step}_lr_used"], 1e-12)
        clock = Clock(0, step, step / 10)
        terms = trainer.step(images, torch.from_numpy(g["labels"]), torch.from_numpy(g["index"][step]),
                             torch.zeros(8, dtype=torch.bool), clock, lr)
        state = {key: value for key, value in backbone.state_dict().items()}
        near(terms["cls"], g[f"step{step}_loss"], accept)
        near(norms[step], g[f"step{step}_grad_norm_before_clip"], accept)
        near([state[key].double().norm() for key in g["param_l2_keys"]], g[f"step{step}_param_l2"], accept)
        near(head.weight.detach(), g[f"step{step}_pfc_weight"], accept)
        near(state["layer4.1.conv2.weight"][:4, :4].flatten(), g[f"step{step}_layer4.1.conv2.weight"], accept)
        for key in ("fc.bias", "features.bias", "bn1.running_mean", "prelu.weight"):
            near(state[key], g[f"step{step}_{key}"], accept)
