"""Which pixels an ONNX file is given: every notation of a normalisation gives the embeddings of a loop in float64."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx_toys import SIZE, constant_node, embedded, expected, node, write

from evaluation.inputs import InputOptions, ModelInput, cut_options, parse_pixels
from evaluation.models import open_model
from evaluation.version_names import Version
from utils.errors import UserError

CPU = [torch.device("cpu")]
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])      # of ImageNet, RGB
COLUMN = (1, 3, 1, 1)


def opened(file: str, words: str = "", scale: float = 127.5):
    return open_model(file, "", CPU, False, InputOptions.parse(words, "--input", scale))


# name -> (first nodes, constants); all give the network proper (pixel - 127.5) / 127.5 of raw pixels.
INSIDE = {
    "sub, mul": ([node("Sub", "input m", "a"), node("Mul", "a f", "x")], {"m": 127.5, "f": 1 / 127.5}),
    "constant nodes, per channel": ([constant_node("m", np.full(COLUMN, 127.5)), constant_node("s", np.full((3, 1, 1), 127.5)),
                                     node("Sub", "input m", "a"), node("Div", "a s", "x")], {}),
    "mul before sub": ([node("Mul", "input f", "a"), node("Sub", "a one", "x")], {"f": 1 / 127.5, "one": 1.0}),
    "div 255, then mean and std": ([node("Div", "input d", "a"), node("Sub", "a h", "c"), node("Div", "c h", "x")],
                                   {"d": 255.0, "h": np.full(COLUMN, 0.5)}),
    "constant minus pixels": ([node("Sub", "full input", "a"), node("Sub", "a m", "c"), node("Neg", "c", "d"),
                               node("Div", "d m", "x")], {"full": 255.0, "m": 127.5}),
    "constant plus pixels": ([node("Add", "m input", "a"), node("Mul", "f a", "x")], {"m": -127.5, "f": 1 / 127.5}),
    "pad and clip": ([node("Clip", "input low high", "k"), node("Sub", "k m", "a"), node("Div", "a m", "c"),
                      node("Pad", "c none", "x")],
                     {"m": 127.5, "low": 0.0, "high": 255.0, "none": np.zeros(8, np.int64)}),
    "batch norm": ([node("BatchNormalization", "input one zero m v", "x", epsilon=0.0)],
                   {"one": np.ones(3), "zero": np.zeros(3), "m": np.full(3, 127.5), "v": np.full(3, 127.5 ** 2)}),
    "depthwise convolution": ([node("Conv", "input K B", "x", group=3)],
                              {"K": np.full((3, 1, 1, 1), 1 / 127.5), "B": -np.ones(3)}),
    "convolution without bias": ([node("Conv", "input K", "a"), node("Sub", "a one", "x")],
                                 {"K": np.eye(3).reshape(3, 3, 1, 1) / 127.5, "one": 1.0}),
    "computed constants": ([constant_node("p", 255), constant_node("q", 2), node("Div", "p q", "m"),
                            node("Unsqueeze", "m axes", "n"), node("Sub", "input n", "a"), node("Div", "a n", "x")],
                           {"axes": np.array([0], np.int64)}),
    "mean picture": ([node("Sub", "input m", "a"), node("Div", "a s", "x")],
                     {"m": np.full((1, 3, SIZE, SIZE), 127.5), "s": 127.5}),
    "identity, cast, reshape": ([node("Identity", "input", "i"), node("Cast", "i", "c", to=TensorProto.FLOAT),
                                 node("Reshape", "c shape", "r"), node("Sub", "r m", "a"), node("Div", "a m", "x")],
                                {"m": 127.5, "shape": np.array([-1, 3, SIZE, SIZE], np.int64)}),
    "split and joined": ([node("Split", "input", "r g b2", axis=1), node("Sub", "r m", "rr"), node("Sub", "g m", "gg"),
                          node("Sub", "b2 m", "bb"), node("Concat", "rr gg bb", "a", axis=1), node("Div", "a m", "x")],
                         {"m": 127.5}),
    "its shape is read, too": ([node("Shape", "input", "n"), node("Sub", "input m", "a"), node("Div", "a m", "c"),
                                node("Reshape", "c n", "x")], {"m": 127.5}),
}


@pytest.mark.parametrize("name", INSIDE)
def test_a_normalisation_inside_is_followed(tmp_path, name):
    model = opened(write(tmp_path / "a.onnx", *INSIDE[name]))
    assert model.input.raw and not model.input.bgr
    assert "a.onnx is given raw pixels, RGB: its first nodes compute (x - 127.5) / 127.5" in model.notes[0]
    np.testing.assert_allclose(embedded(model), expected(), atol=1e-5)


def test_a_normalisation_in_a_function_of_the_file_is_followed(tmp_path):
    function = helper.make_function("mine", "Normalise", ["p", "m"], ["q"], [node("Sub", "p m", "t"), node("Div", "t m", "q")],
                                    [helper.make_opsetid("", 17)])
    front = [helper.make_node("Normalise", ["input", "m"], ["x"], domain="mine")]
    model = opened(write(tmp_path / "a.onnx", front, {"m": 127.5}, functions=[function]))
    assert model.input.raw
    np.testing.assert_allclose(embedded(model), expected(), atol=1e-5)


def test_means_of_the_colours_tell_their_order(tmp_path):
    """The blue mean is the smallest: a file whose first channel has it takes BGR."""
    nodes = [node("Sub", "input m", "a"), node("Div", "a s", "x")]
    model = opened(write(tmp_path / "rgb.onnx", nodes, {"m": MEAN.reshape(COLUMN), "s": STD.reshape(COLUMN)}))
    assert str(model.input) == "raw pixels, RGB" and "(x - 123.7:116.3:103.5) / 58.4" in model.notes[0]
    np.testing.assert_allclose(embedded(model), expected(MEAN, STD), atol=1e-5)
    turned = [node("Transpose", "input", "y", perm=[0, 3, 1, 2]), node("Sub", "y m", "a"), node("Div", "a s", "x")]
    model = opened(write(tmp_path / "turned.onnx", turned, {"m": MEAN.reshape(COLUMN), "s": STD.reshape(COLUMN)},
                         inputs={"input": (np.float32, ["N", SIZE, SIZE, 3])}))
    assert "the order of the colours is the default" not in model.notes[0]
    np.testing.assert_allclose(embedded(model), expected(MEAN, STD), atol=1e-5)
    flip = node("Gather", "y order", "x", axis=1)
    for file, pixels in (("caffe.onnx", 1), ("unit.onnx", 255)):
        nodes = [node("Sub", "input m", "a"), node("Div", "a s", "y"), flip]
        constants = {"m": MEAN[::-1].reshape(COLUMN) / pixels, "s": STD[::-1].reshape(COLUMN) / pixels,
                     "order": np.array([2, 1, 0], np.int64)}
        model = opened(write(tmp_path / file, nodes, constants))
        assert str(model.input) == ("raw pixels, BGR" if pixels == 1 else "x / 255, BGR")
        np.testing.assert_allclose(embedded(model), expected(MEAN, STD), atol=1e-5)


REVERSED = {
    "gather": [node("Gather", "input order", "y", axis=1)],
    "slice": [node("Slice", "input last before axis step", "y")],
    "convolution": [node("Conv", "input K", "y")],
    "split": [node("Split", "input", "p q r", axis=1), node("Concat", "r q p", "y", axis=1)],
}


@pytest.mark.parametrize("name", REVERSED)
def test_a_file_that_reverses_its_channels_is_given_bgr_on_request(tmp_path, name):
    """The means are red's where red is read, behind the reversal."""
    constants = {"order": np.array([2, 1, 0], np.int64), "last": np.array([-1], np.int64), "before": np.array([-2**63], np.int64),
                 "axis": np.array([1], np.int64), "step": np.array([-1], np.int64), "K": np.eye(3)[::-1].reshape(3, 3, 1, 1)}
    plain = write(tmp_path / "plain.onnx", [*REVERSED[name], node("Identity", "y", "x")], constants)
    assert "the order of the colours is the default" in opened(plain).notes[0]
    model = opened(plain, "bgr")
    assert model.input == ModelInput(bgr=True) and "order" not in model.notes[0]
    np.testing.assert_allclose(embedded(model), expected(), atol=1e-5)
    means = {"m": MEAN.reshape(COLUMN), "s": STD.reshape(COLUMN)}
    nodes = [*REVERSED[name], node("Sub", "y m", "a"), node("Div", "a s", "x")]
    found = opened(write(tmp_path / "means.onnx", nodes, constants | means))
    assert str(found.input) == "raw pixels, BGR"
    np.testing.assert_allclose(embedded(found), expected(MEAN, STD), atol=1e-5)


def test_values_from_0_to_1_are_given_where_the_file_expects_them(tmp_path):
    half = opened(write(tmp_path / "half.onnx", [node("Sub", "input h", "a"), node("Div", "a h", "x")], {"h": 0.5}))
    double = opened(write(tmp_path / "double.onnx", [node("Mul", "input t", "a"), node("Sub", "a o", "x")], {"t": 2.0, "o": 1.0}))
    for model in (half, double):
        assert model.input.pixels == "x / 255"
        np.testing.assert_allclose(embedded(model), expected(), atol=1e-5)


# name -> (first nodes, constants, std and shift of what the network proper reads).
OUTSIDE = {
    "nothing": ([], {}, 1, 0),
    "prelu in four nodes": ([node("Conv", "input K", "v"), node("Relu", "v", "up"), node("Sub", "v up", "down"),
                             node("Mul", "down slope", "less"), node("Add", "up less", "x")],
                            {"K": np.eye(3).reshape(3, 3, 1, 1), "slope": np.ones((3, 1, 1))}, 1, 0),
    "batch norm of normalised faces": ([node("BatchNormalization", "input one zero m v", "x", epsilon=0.0)],
                                       {"one": np.ones(3), "zero": np.zeros(3), "m": np.full(3, -0.1), "v": np.full(3, 0.25)},
                                       0.5, 0.2),
    "batch norm that was not trained": ([node("BatchNormalization", "input one zero m v", "x", epsilon=0.0)],
                                        {"one": np.ones(3), "zero": np.zeros(3), "m": np.zeros(3), "v": np.ones(3)}, 1, 0),
    "batch norm with weights": ([node("BatchNormalization", "input g s m v", "x", epsilon=0.0)],
                                {"g": np.full(3, 40.0), "s": np.full(3, 7.0), "m": np.zeros(3), "v": np.full(3, 0.25)},
                                1 / 80, 7),
    "factor of two": ([node("Mul", "input t", "x")], {"t": 2.0}, 0.5, 0),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_file_without_normalisation_is_given_the_default(tmp_path, name):
    front, constants, std, shift = OUTSIDE[name]
    file = write(tmp_path / "a.onnx", front, constants)
    for scale in (127.5, 128.0):
        model = opened(file, scale=scale)
        assert model.input == ModelInput(std=(scale,)) and "the default, because" in model.notes[0]
        np.testing.assert_allclose(embedded(model), expected(127.5, scale * std, shift), atol=2e-5 / std)


UNCLEAR = {
    "two ways": ([node("Sub", "input m", "a"), node("Div", "a m", "c"), node("Relu", "input", "r"), node("Add", "c r", "x")],
                 {"m": 127.5}, "in several ways"),
    "tiny": ([node("Mul", "input t", "x")], {"t": 1e-5}, "not a usual normalisation"),
    "signed bytes": ([node("Add", "input t", "x")], {"t": 128.0}, "not a usual normalisation"),
    "one channel": ([node("Sub", "input m", "x")], {"m": np.array([0.0, 127.5, 0.0]).reshape(COLUMN)},
                    "not a usual normalisation"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_is_not_clear_is_a_guess_that_is_doubted_aloud(tmp_path, name):
    front, constants, words = UNCLEAR[name]
    file = write(tmp_path / "a.onnx", front, constants)
    model = opened(file)
    assert model.input == ModelInput() and words in model.notes[0] and model.notes[1].startswith("warning: the input of")
    assert not any("warning" in note for note in opened(file, "input=raw").notes)


def test_quantised_pixels_are_followed(tmp_path):
    front = [node("QuantizeLinear", "input s z", "q"), node("DequantizeLinear", "q s z", "y"), node("Sub", "y m", "a"),
             node("Div", "a m", "x")]
    model = opened(write(tmp_path / "a.onnx", front, {"s": 1.0, "z": np.array(0, np.uint8), "m": 127.5}))
    assert model.input.raw
    np.testing.assert_allclose(embedded(model), expected(), atol=1e-5)


NORMALISE = [node("Cast", "y", "f", to=TensorProto.FLOAT), node("Sub", "f m", "a"), node("Div", "a m", "x")]
TURN = node("Transpose", "input", "y", perm=[0, 3, 1, 2])
# name -> (type, shape, first nodes, whether raw pixels are expected)
KINDS = {
    "uint8": (np.uint8, ["N", 3, SIZE, SIZE], [node("Identity", "input", "y"), *NORMALISE], True),
    "uint8, rows first": (np.uint8, ["N", SIZE, SIZE, 3], [TURN, *NORMALISE], True),
    "float32, rows first": (np.float32, ["N", SIZE, SIZE, 3], [TURN, *NORMALISE], True),
    "normalised, rows first": (np.float32, ["N", SIZE, SIZE, 3], [TURN, node("Identity", "y", "x")], False),
    "normalised before it is turned": (np.float32, [2, SIZE, SIZE, 3], [
        node("Sub", "input m", "a"), node("Div", "a m", "n"), node("Transpose", "n", "x", perm=[0, 3, 1, 2])], True),
    "float64": (np.float64, ["N", 3, SIZE, SIZE], [node("Identity", "input", "y"), *NORMALISE], True),
    "float16": (np.float16, [1, 3, SIZE, SIZE], [node("Cast", "input", "x", to=TensorProto.FLOAT)], False),
}


@pytest.mark.parametrize("name", KINDS)
def test_types_and_layouts(tmp_path, name):
    kind, shape, front, raw = KINDS[name]
    model = opened(write(tmp_path / "a.onnx", front, {"m": np.full(3, 127.5) if name.endswith("turned") else 127.5},
                         inputs={"input": (kind, shape)}))
    assert model.input.raw == raw and model.image_size == SIZE
    np.testing.assert_allclose(embedded(model), expected(), atol=1e-5 if kind != np.float16 else 2e-3)


def test_a_file_for_uint8_without_normalisation_is_given_pixels(tmp_path):
    model = opened(write(tmp_path / "a.onnx", [node("Cast", "input", "x", to=TensorProto.FLOAT)],
                         inputs={"input": (np.uint8, ["N", 3, SIZE, SIZE])}))
    assert model.input.raw and "raw pixels, RGB: it takes uint8" in model.notes[0]
    np.testing.assert_allclose(embedded(model), expected(0, 1), rtol=1e-4)


def test_a_file_in_half_precision(tmp_path):
    model = opened(write(tmp_path / "a.onnx", [], dtype=np.float16))
    assert embedded(model).dtype == np.float32
    np.testing.assert_allclose(embedded(model), expected(), atol=5e-3)


def test_the_command_line_comes_first(tmp_path):
    inside = write(tmp_path / "a.onnx", *INSIDE["sub, mul"])
    model = opened(inside, "input=0/2,rgb")
    assert str(model.input) == "x / 2, RGB" and "although its first nodes compute (x - 127.5) / 127.5" in model.notes[0]
    np.testing.assert_allclose(embedded(model), expected(255, 255), atol=1e-5)          # (x / 2 - 127.5) / 127.5
    plain = write(tmp_path / "b.onnx", [])
    model = opened(plain, "input=123.675:116.28:103.53/58.395:57.12:57.375")
    np.testing.assert_allclose(embedded(model), expected(MEAN, STD), atol=1e-5)
    with pytest.raises(UserError, match="takes uint8, which are pixels from 0 to 255; expected input=raw, found x / 255"):
        opened(write(tmp_path / "c.onnx", [node("Cast", "input", "x", to=TensorProto.FLOAT)],
                     inputs={"input": (np.uint8, ["N", 3, SIZE, SIZE])}), "input=0/255")


@pytest.mark.parametrize("words", ["input=rw", "input=127.5", "input=1/0", "input=1/-2", "input=1:2/3", "input=nan/1", "brg",
                                   "input=", "size=112", "input=raw,input=0/255", "rgb,bgr", "output=", "input=1/2/3"])
def test_wrong_words_are_named(words):
    with pytest.raises(UserError, match="--input"):
        InputOptions.parse(words, "--input")


def test_words_follow_the_file_of_a_version(tmp_path, monkeypatch):
    assert cut_options("models/r100/model,0") == ("models/r100/model,0", "")
    assert cut_options("a,b/model,12,input=0/255,bgr") == ("a,b/model,12", "input=0/255,bgr")
    assert parse_pixels("1/2", "") == {"mean": (1.0,), "std": (2.0,)}
    found, = Version.parse("new=a.onnx,input=raw,bgr")
    assert (found.file, found.network, found.words) == ("a.onnx", None, "input=raw,bgr")
    found, = Version.parse("new=a.pt:r50,input=1:2:3/4:5:6")
    assert (found.file, found.network, found.words) == ("a.pt", "r50", "input=1:2:3/4:5:6")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,bgr").mkdir()
    assert Version.parse("new=a,bgr")[0].file == "a,bgr"                                   # a folder of that name
    (tmp_path / "plain").mkdir()
    for text in ("new=a.npy,input=raw", "new=plain,bgr"):
        with pytest.raises(UserError, match="holds embeddings, which have no input; leave out"):
            Version.parse(text)
    with pytest.raises(UserError, match="found 'brg'"):
        Version.parse("new=a.onnx,brg")


