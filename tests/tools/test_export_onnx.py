"""The exporter: the ONNX file computes what the backbone computes, for any number of images."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from backbones import get_model
from tools.export_onnx import export_onnx
from utils.errors import UserError


class Tiny(nn.Module):
    """Exported in a second; the quicker exporter takes its len(x) for a constant."""

    image_size, num_features = 16, 4

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 5, 3, 2), nn.BatchNorm2d(5), nn.Linear(5 * 49, 4)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).flatten(1)) * x.new_ones(len(x), 1)


@pytest.fixture
def export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*flags: str) -> None:
        monkeypatch.setattr(sys, "argv", ["export_onnx.py", *flags])
        export_onnx.main()
    return call


def answers(file: str, size: int, count: int) -> tuple[np.ndarray, torch.Tensor]:
    x = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
    return onnxruntime.InferenceSession(file).run(["embedding"], {"input": x.numpy()})[0], x


@pytest.mark.long
@pytest.mark.parametrize("limit", [export_onnx.PROTOBUF_LIMIT, 0])      # 0: weights in a second file
def test_the_file_equals_the_model_for_any_number_of_images(export, monkeypatch, capsys, limit):
    model = Tiny().eval()
    monkeypatch.setattr(export_onnx, "load_model", lambda network, file: model)
    monkeypatch.setattr(export_onnx, "PROTOBUF_LIMIT", limit)
    export("-m", "model.pt", "-o", "sub/a.onnx")
    *_, about, last = capsys.readouterr().out.splitlines()
    assert about.startswith("largest difference to PyTorch") and last.startswith("wrote /") and last.endswith(".onnx")
    assert sorted(p.name for p in Path("sub").iterdir()) == ["a.onnx", "a.onnx.data"][:2 - bool(limit)]
    for count in (1, 2, 5):
        found, x = answers("sub/a.onnx", 16, count)
        np.testing.assert_allclose(found, model(x).detach(), atol=1e-5)


# opset -> version of the file format that has it, from ONNX's table of versions; onnxruntime 1.16 reads up to opset 19, format 9.
@pytest.mark.long
@pytest.mark.parametrize("opset, file_format", [(17, 8), (18, 8), (19, 9), (21, 10)])
def test_older_runtimes_get_their_opset(export, monkeypatch, opset, file_format):
    model = Tiny().eval()
    monkeypatch.setattr(export_onnx, "load_model", lambda network, file: model)
    export("-m", "model.pt", "-o", "a.onnx", "--opset", str(opset))
    written = onnx.load("a.onnx")
    assert [(entry.domain, entry.version) for entry in written.opset_import] == [("", opset)]
    assert written.ir_version == file_format
    found, x = answers("a.onnx", 16, 3)
    np.testing.assert_allclose(found, model(x).detach(), atol=1e-5)


@pytest.mark.long
def test_an_opset_that_cannot_be_written_or_run_is_named(export, monkeypatch):
    monkeypatch.setattr(export_onnx, "load_model", lambda network, file: Tiny().eval())
    with pytest.raises(UserError, match="cannot run opset 25, so the file was not compared"):
        export("-m", "model.pt", "--opset", "25")
    monkeypatch.setattr(torch.onnx, "export", lambda program, args, file, **more: Path(file).write_bytes(
        onnx.helper.make_model(onnx.GraphProto(), opset_imports=[onnx.helper.make_opsetid("", 18)]).SerializeToString()))
    with pytest.raises(UserError, match="--opset 17: the exporter wrote opset 18 instead; choose 18"):
        export("-m", "model.pt", "--opset", "17")
    with pytest.raises(SystemExit):
        export("-m", "model.pt", "--opset", "99")
    assert list(Path(".").iterdir()) == []


def test_a_file_that_differs_is_not_written(export, monkeypatch):
    monkeypatch.setattr(export_onnx, "load_model", lambda network, file: Tiny().eval())
    monkeypatch.setattr(export_onnx, "export", lambda model, file, opset: None)
    for difference in (0.5, float("nan")):
        monkeypatch.setattr(export_onnx, "difference", lambda model, file, found=difference: (found, 1.0))
        with pytest.raises(UserError, match="differs from PyTorch by"):
            export("-m", "model.pt")
    assert list(Path(".").iterdir()) == []


def test_difference_sees_other_weights(tmp_path):
    model = Tiny().eval()
    export_onnx.export(model, tmp_path / "a.onnx")
    assert export_onnx.difference(model, tmp_path / "a.onnx")[0] < 1e-5
    with torch.no_grad():
        model.fc.bias += 0.1
    assert export_onnx.difference(model, tmp_path / "a.onnx")[0] == pytest.approx(0.1, abs=1e-4)


def test_mistakes_are_sentences(export):
    with pytest.raises(UserError, match="no model file none.pt"):
        export("-m", "none.pt")
    with pytest.raises(UserError, match="-o a.pb: expected a name that ends in .onnx"):
        export("-m", "none.pt", "-o", "a.pb")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["r18", "mbf", "cnn_s", "vit_t"])
def test_networks(export, network):
    model = get_model(network, num_features=8, image_size=32).eval()
    torch.save(model.state_dict(), "model.pt")
    export("-m", "model.pt", "-net", network)
    found, x = answers("model.onnx", 32, 3)
    expected = model(x).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
