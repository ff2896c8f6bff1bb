"""Backbones against the golden folder: keys, shapes and embeddings of insightface's networks."""

import json

import pytest
import torch
from folders import golden_folder
from golden_arrays import golden, near, ruled

from backbones import get_model
from backbones.weights import load_model, load_state

# By first letter of the network, as a share of the largest value.  The public float32 run is 2e-6 (ViT: 1.4e-5) off float64,
# which is the same on every processor; another order of float32 sums, of up to 4,608 products in each of 18 to 100 layers, was
# seen to move the values by 6e-6.
EXACT = {"r": 5e-6, "m": 5e-6, "v": 2e-5}
ACCEPT = {"r": 5e-5, "m": 5e-5, "v": 2e-4}


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


@pytest.mark.parametrize("entry", ["r18_512", "mbf_512", "vit_t_512"])
def test_backbone_in_float64(entry):
    """One network of each family, with more digits than the public run had."""
    name, dim = entry.rsplit("_", 1)
    with torch.device("meta"):
        model = get_model(name, num_features=int(dim))
    model.load_state_dict(weights(entry), assign=True)
    model.eval().double()
    g = golden("01_backbones")
    with torch.no_grad():
        near(model.embed(model.trunk(images(g).double())), g[f"out_{entry}"], EXACT[name[0]])


@pytest.mark.parametrize("dim", [128, 512])
def test_public_softmax_model(tmp_path, dim):
    """Its checkpoint loads as a plain r18; its scores are a linear layer with bias on the raw embedding."""
    g, state = golden("01_backbones"), weights(f"r18_softmax_{dim}")
    torch.save(state, tmp_path / "model.pt")
    assert list(load_state(tmp_path / "model.pt")) == [key for key, _, _ in listed(f"r18_{dim}")["keys"]]
    with torch.no_grad():
        feature = load_model("r18", tmp_path / "model.pt")(images(g))
    scores = feature @ state["cls_fc.weight"].T + state["cls_fc.bias"]
    near(feature, g[f"out_r18_{dim}"], ACCEPT["r"])
    near(scores, g[f"out_r18_softmax_{dim}"], ACCEPT["r"])


@pytest.mark.parametrize("entry", ["r18_bct_512", "r18_advbct_512"])
def test_public_models_with_extra_heads(tmp_path, entry):
    g = golden("01_backbones")
    torch.save(weights(entry), tmp_path / "model.pt")
    with torch.no_grad():
        near(load_model("r18", tmp_path / "model.pt")(images(g)), g[f"out_{entry}"], ACCEPT["r"])
