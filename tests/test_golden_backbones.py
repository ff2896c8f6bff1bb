"""Backbones against the golden folder: keys, shapes and embeddings of insightface's networks."""

import json

import pytest
import torch
from conftest import golden_folder
from test_golden import golden, near, ruled

from backbones import get_model
from backbones.weights import load_model, load_state

ACCEPT = {"r": 1e-5, "m": 1e-5, "v": 2e-4}      # by first letter of the network


def listed(entry: str) -> dict:
    return json.loads((golden_folder() / "01_backbones_keys.json").read_text())[entry]


def images(g: dict) -> torch.Tensor:
    """The public run's network input, [2, 3, 112, 112] float32."""
    return (torch.from_numpy(g["x_u8"]).float() - 127.5) / 127.5


def weights(entry: str) -> dict:
    """The state dict that the public network had, every tensor by the weight rule."""
    of_entry = listed(entry)
    return ruled({key: torch.empty(shape, device="meta") for key, shape, _ in of_entry["keys"]}, of_entry["gain"])


@pytest.mark.parametrize("entry", [
    "r18_512", "r18_128", "r34_512", "r50_512", "r50_128", "mbf_512", "mbf_large_512", "vit_t_512",
    pytest.param("r100_512", marks=pytest.mark.slow), pytest.param("vit_s_512", marks=pytest.mark.slow),
    pytest.param("vit_b_512", marks=pytest.mark.slow),
])
def test_backbone(entry):
    name, dim = entry.rsplit("_", 1)
    with torch.device("meta"):
        model = get_model(name, num_features=int(dim))
    expected = listed(entry)
    assert [[key, list(value.shape), str(value.dtype).removeprefix("torch.")]
            for key, value in model.state_dict().items()] == expected["keys"]
    assert sum(p.numel() for p in model.parameters()) == expected["n_params"]
    assert [key for key, p in model.named_parameters() if not p.requires_grad] == expected["requires_grad_false"]
    model.load_state_dict(weights(entry), assign=True)
    g = golden("01_backbones")
    with torch.no_grad():
        near(model.eval()(images(g)), g[f"out_{entry}"], ACCEPT[name[0]])


@pytest.mark.parametrize("dim", [128, 512])
def test_public_softmax_model(tmp_path, dim):
    """Its checkpoint loads as a plain r18; its scores are a linear layer with bias on the raw embedding."""
    g, state = golden("01_backbones"), weights(f"r18_softmax_{dim}")
    torch.save(state, tmp_path / "model.pt")
    assert list(load_state(tmp_path / "model.pt")) == [key for key, _, _ in listed(f"r18_{dim}")["keys"]]
    with torch.no_grad():
        feature = load_model("r18", tmp_path / "model.pt")(images(g))
    scores = feature @ state["cls_fc.weight"].T + state["cls_fc.bias"]
    near(feature, g[f"out_r18_{dim}"], 1e-5)
    near(scores, g[f"out_r18_softmax_{dim}"], 1e-5)


@pytest.mark.parametrize("entry", ["r18_bct_512", "r18_advbct_512"])
def test_public_models_with_extra_heads(tmp_path, entry):
    g = golden("01_backbones")
    torch.save(weights(entry), tmp_path / "model.pt")
    with torch.no_grad():
        near(load_model("r18", tmp_path / "model.pt")(images(g)), g[f"out_{entry}"], 1e-5)
