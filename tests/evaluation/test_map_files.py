"""Maps as .npz and ONNX."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx_small_model import write_model

from evaluation.map_files import load_map, models_of, save_map
from evaluation.map_forms import Map
from evaluation.map_onnx import map_model, model_and_map, save_onnx, session_of
from evaluation.maps import BACKWARD, FORWARD, Fitted
from utils.errors import UserError

DRAW = np.random.default_rng(0)


def drawn(*shapes) -> list[np.ndarray]:
    return [DRAW.standard_normal(shape).astype(np.float32) for shape in shapes]


LINEAR = Map(*drawn((6, 4), 4))
MLP = Map(*drawn((6, 4), 4), tuple(drawn((6, 5), 5, (5, 4))))


@pytest.mark.parametrize("mapping", [LINEAR, MLP])
def test_an_npz_gives_the_map_back(tmp_path, mapping):
    save_map(tmp_path / "a.npz", Fitted("ridge", mapping, "l = 1", 0.25, 0.9, 40, 1.5), FORWARD)
    found, direction, error = load_map(tmp_path / "a.npz")
    assert (direction, error) == (FORWARD, 0.25)
    x, = drawn((9, 6))
    np.testing.assert_array_equal(found(x), mapping(x))


def test_files_that_are_not_maps_are_refused(tmp_path):
    good = {"weight": LINEAR.weight, "bias": LINEAR.bias, "direction": BACKWARD, "error": 0.5}
    wrong = [{"weight": LINEAR.weight.astype(float)}, {"bias": np.full(4, np.nan, np.float32)}, {"bias": LINEAR.weight[0, :3]},
             {"direction": "sideways"}, {"error": "big"}, {"weight": LINEAR.bias}, {"hidden_weight": LINEAR.weight}]
    for change in wrong:
        np.savez(tmp_path / "a.npz", **(good | change))
        with pytest.raises(UserError, match=r"a\.npz is not a map .*expected an \.npz that tools/adapt"):
            load_map(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_text("no zip")
    for name in ("b.npz", "missing.npz"):
        with pytest.raises(UserError, match="is not a map"):
            load_map(tmp_path / name)
    np.savez(tmp_path / "a.npz", **good)
    assert models_of(tmp_path / "a.npz") == {}, "a map of an earlier version knows no models"
    for text in ("{", "[]", '{"new": 5}'):
        np.savez(tmp_path / "a.npz", **good, models=text)
        with pytest.raises(UserError, match="does not say which models it belongs to"):
            models_of(tmp_path / "a.npz")


@pytest.mark.parametrize("mapping", [LINEAR, MLP])
def test_the_onnx_map_is_the_map(tmp_path, mapping):
    x, = drawn((7, 6))
    x[3] = 0
    save_onnx(tmp_path / "map.onnx", map_model(mapping))
    session = onnxruntime.InferenceSession(str(tmp_path / "map.onnx"))
    np.testing.assert_allclose(session.run(None, {"embedding": x})[0], mapping(x), atol=2e-5)
    assert session.get_outputs()[0].name == "mapped" and onnx.load(str(tmp_path / "map.onnx")).ir_version == 8


@pytest.mark.parametrize(("opset", "shape", "kind"), [(9, ("N", 6), TensorProto.FLOAT), (20, ("N", 6, 1, 1), TensorProto.FLOAT),
                                                      (17, ("N", None), TensorProto.FLOAT16)])
def test_model_and_map_in_one_file(tmp_path, opset, shape, kind):
    """Old and new operator sets, an output of other dimensions, half precision."""
    weight = write_model(tmp_path / "model.onnx", opset, shape=("N", 6) if len(shape) == 4 else shape, kind=kind)
    images, = drawn((5, 3, 2, 2))
    for mapping in (LINEAR, MLP):
        save_onnx(tmp_path / "both.onnx", model_and_map(tmp_path / "model.onnx", mapping))
        session = onnxruntime.InferenceSession(str(tmp_path / "both.onnx"))
        out, = session.run(None, {"input": images})
        expected = mapping((images.reshape(5, 12) @ weight).astype(np.float16 if kind == TensorProto.FLOAT16 else np.float32))
        np.testing.assert_allclose(out, expected, atol=2e-4)
        assert out.dtype == np.float32


def test_models_that_a_map_does_not_fit_are_refused(tmp_path):
    write_model(tmp_path / "seven.onnx", dim=7, shape=("N", 7))
    with pytest.raises(UserError, match=r"\[7\] numbers for each image, the map takes 6"):
        model_and_map(tmp_path / "seven.onnx", LINEAR)
    write_model(tmp_path / "old.onnx", opset=8)
    with pytest.raises(UserError, match="opset 8"):
        model_and_map(tmp_path / "old.onnx", LINEAR)
    write_model(tmp_path / "model.onnx")
    model = onnx.load(str(tmp_path / "model.onnx"))
    onnx.save(model, str(tmp_path / "parts.onnx"), save_as_external_data=True, size_threshold=0)
    with pytest.raises(UserError, match="weights in another file"):
        model_and_map(tmp_path / "parts.onnx", LINEAR)
    (tmp_path / "text.onnx").write_text("text")
    for name in ("text.onnx", "missing.onnx"):
        with pytest.raises(UserError, match="is not an ONNX model"):
            model_and_map(tmp_path / name, LINEAR)
    with pytest.raises(UserError, match="onnxruntime cannot load"):
        session_of(b"text", tmp_path / "x.onnx")
    twice = model_and_map(tmp_path / "model.onnx", LINEAR)
    onnx.save(twice, str(tmp_path / "twice.onnx"))
    with pytest.raises(UserError, match=r"\[4\] numbers"):
        model_and_map(tmp_path / "twice.onnx", LINEAR)
