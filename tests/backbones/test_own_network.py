"""A network of one's own, as CONTRIBUTING.md has it: trained, saved, and read again at any size; a wrong shape_of is refused."""

import re
import types

import pytest
import torch

import backbones
from backbones import get_model
from backbones.weights import load_model
from engine.parts import new_backbone
from tools.export_onnx import export_onnx
from utils.errors import UserError
from utils.paths import ROOT
from utils.settings import Settings


@pytest.fixture
def tiny(monkeypatch) -> type:
    """The class of CONTRIBUTING.md."""
    text = re.search(r"## Adding a network.*?```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[1]
    module = types.ModuleType("tiny")
    exec(text, vars(module))
    monkeypatch.setitem(backbones.BUILDERS, "tiny", (module.Tiny, dict(width=8)))
    return module.Tiny


@pytest.mark.parametrize("num_features, image_size", [(24, 32), (512, 112), (7, 48)])
def test_the_network_of_the_page_is_read_again_at_its_size(tiny, tmp_path, num_features, image_size):
    model = get_model("tiny", num_features=num_features, image_size=image_size).eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = load_model("tiny", tmp_path / "model.pt")
    assert (again.num_features, again.image_size) == (num_features, image_size)
    images = torch.randn(2, 3, image_size, image_size)
    assert torch.equal(again(images), model(images)) and again(images).shape == (2, num_features)


@pytest.mark.long
def test_the_network_of_the_page_is_exported_and_counted(tiny, tmp_path):
    model = get_model("tiny", num_features=24, image_size=32).eval()
    export_onnx.export(model, tmp_path / "tiny.onnx")
    assert export_onnx.difference(model, tmp_path / "tiny.onnx")[0] < 1e-4
    cfg = Settings(network="tiny", dropout=0.0, embedding_size=24, image_size=32)
    assert new_backbone(cfg, device="meta").state_dict()["out.1.weight"].is_meta


def test_the_networks_here_have_no_buffer_for_their_size():
    """Their keys are insightface's."""
    for name in ("r18", "mbf", "cnn_s", "vit_t"):
        assert "shape" not in get_model(name, num_features=16, image_size=32).state_dict()


@pytest.mark.parametrize("wrong, words", [
    (lambda state: (24, 112), r"= \(24, 32\) in the network's state dict, found \(24, 112\)"),
    (lambda state: (len(state["out.0.weight"]), 32), "found KeyError: 'out.0.weight'"),
    (lambda state: None, "found TypeError"), (lambda state: (32, 24), r"found \(32, 24\)")])
def test_a_shape_of_that_is_wrong_is_refused_before_a_training(tiny, wrong, words):
    tiny.shape_of = staticmethod(wrong)
    with pytest.raises(UserError, match=words):
        get_model("tiny", num_features=24, image_size=32)
    with pytest.raises(UserError, match="network tiny: Tiny.shape_of must find"):
        new_backbone(Settings(network="tiny", dropout=0.0, embedding_size=24, image_size=32))
    tiny.shape_of = staticmethod(lambda state: (len(state["out.1.bias"]), 32))
    assert get_model("tiny", num_features=24, image_size=32).num_features == 24
