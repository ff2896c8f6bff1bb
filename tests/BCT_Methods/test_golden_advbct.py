"""AdvBCT against the golden arrays 09: the two terms with their gradients at three moments, and the gradient reversal."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_arrays import golden, near
from golden_parts import no_head, on_arrays, unit_rows

from BCT_Methods.AdvBCT.train import AdvBCT, Reverse
from engine.method import Clock
from old_model.statistics import class_balls


def advbct(g: dict) -> AdvBCT:
    """The golden run's method: class balls, learnt radii and discriminator."""
    cfg = SimpleNamespace(threshold=0.4, p2s_weight=4.0, adv_weight=4.0, num_epoch=4)
    centres, radii, kept = class_balls(g["feat"], g["label"], 7)
    assert g["threshold"] == 0.4 and g["num_classes"] == 7
    layers = torch.nn.Sequential(torch.nn.Linear(16, 100), torch.nn.BatchNorm1d(100), torch.nn.ReLU(),
                                 torch.nn.Linear(100, 2), torch.nn.LogSoftmax(dim=1))
    for name, layer in (("d_fc1", layers[0]), ("d_bn1", layers[1]), ("d_fc2", layers[3])):
        start = f"w_discriminator.{name}."
        layer.load_state_dict({k.removeprefix(start): torch.from_numpy(g[k]) for k in g if k.startswith(start)})
    return on_arrays(AdvBCT, cfg=cfg, old=unit_rows(g["old_bank_raw"]), centres=torch.from_numpy(centres),
                     radii=torch.from_numpy(radii), is_ball=torch.from_numpy(kept > 1), discriminator=layers,
                     elastic=torch.nn.Parameter(torch.from_numpy(g["eboundary_weight"])))


@pytest.mark.parametrize("start, epoch", [("p000", 0), ("p025", 1), ("p100", 4)])
def test_advbct(start, epoch, one_rank):
    g = golden("09_advbct")
    method, progress = advbct(g), epoch / 4
    near(progress, g[f"{start}_p"], 1e-12)
    near(2 / (1 + math.exp(-10 * progress)) - 1, g[f"{start}_alpha"], 1e-12)
    new, labels = torch.from_numpy(g["new_emb"]).requires_grad_(), torch.from_numpy(g["local_labels"])
    seen = []
    method.discriminator.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    terms = method(no_head, new, labels, torch.from_numpy(g["index"]), Clock(epoch, 0, progress))
    near(terms["p2s"].detach(), g[f"{start}_Loss_p2s"][0], 1e-5)
    near(terms["adv"].detach(), g[f"{start}_Loss_adv"], 1e-5)
    near(4 * (4 - epoch + 1) / 4, g[f"{start}_adv_factor"], 1e-12)
    near(seen[0], g[f"{start}_logp_new"], 1e-5)
    near(seen[1], g[f"{start}_logp_old"], 1e-5)

    radii = method.radii.double().numpy()
    moved = np.abs(radii - 0.4) / (1 + np.exp(-g["eboundary_weight"].astype(np.float64)))
    present = np.isin(np.arange(7), g["local_labels"]) & np.isin(np.arange(7), g["label"])
    near(np.where(present, moved, 0), g[f"{start}_radius_eb"], 1e-5)
    radius = radii + np.where(radii < 0.4, moved, -moved)
    distance = (F.normalize(new.detach()) - method.centres[labels]).norm(dim=1).numpy()
    assert (method.is_ball.numpy()[labels] & (distance > radius[labels])).sum() == g[f"{start}_count"]

    parameters = dict(method.discriminator.named_parameters())
    p2s = torch.autograd.grad(terms["p2s"], [new, method.elastic], retain_graph=True)
    adv = torch.autograd.grad(terms["adv"], [new, *parameters.values()])
    near(p2s[0], g[f"{start}_grad_p2s_new_emb"], 1e-5)
    near(p2s[1], g[f"{start}_grad_p2s_eboundary"], 1e-5)
    near(adv[0], g[f"{start}_grad_adv_new_emb"], 1e-5)
    public = {"0": "d_fc1", "1": "d_bn1", "3": "d_fc2"}
    for key, value in zip(parameters, adv[1:], strict=True):
        layer, kind = key.split(".")
        expected = g[f"{start}_grad_adv_{public[layer]}.{kind}"]
        # BatchNorm makes the first bias's gradient 0: a sum of 16 rows' terms, 3.0 in all, each rounded to float32.
        rounding = 16 * 3.0 * np.finfo(np.float32).eps if (layer, kind) == ("0", "bias") else 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(value, expected, rtol=0, atol=rounding)
    for kind in ("running_mean", "running_var"):
        near(getattr(method.discriminator[1], kind), g[f"{start}_buf_after_d_bn1.{kind}"], 1e-5)


def test_gradient_reversal():
    g = golden("09_advbct")
    keys = [k for k in g if k.startswith("rev_")]
    x = torch.from_numpy(g["rev_x"]).requires_grad_()
    out = Reverse.apply(x, float(g["rev_alpha"]))
    out.backward(torch.from_numpy(g["rev_upstream"]))
    near(out.detach(), g["rev_out"], 1e-6)
    near(x.grad, g["rev_grad"], 1e-6)
    assert len(keys) == 5
