"""Weights from files: every layout in use loads, everything else is refused in one sentence."""

import hashlib
import os
import zipfile

import numpy as np
import pytest
import torch

from backbones import NETWORKS, get_model
from backbones.weights import fingerprint, load_model, load_state, shape_of
from utils.errors import UserError


@pytest.fixture(scope="module")
def r18():
    torch.manual_seed(0)
    return get_model("r18", num_features=8, image_size=32).eval()


@pytest.fixture(scope="module")
def mbf():
    return get_model("mbf", num_features=8, image_size=32).eval()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.pt"


def same(found: dict, expected: dict) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name, settings", [("r18", {}), ("mbf", {}), ("cnn_s", {}), ("vit_t", {})])
def test_round_trip(file, name, settings):
    model = get_model(name, num_features=24, image_size=48).eval()
    torch.save(model.state_dict(), file)
    loaded = load_model(name, file)
    assert (loaded.num_features, loaded.image_size, loaded.training) == (24, 48, False)
    assert same(loaded.state_dict(), model.state_dict())
    x = torch.randn(1, 3, 48, 48)
    assert torch.equal(loaded(x), model(x))
    assert ([p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()])
    os.truncate(file, 0)                              # the model does not live on the file's memory
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "r2060"])
@pytest.mark.parametrize("size", [16, 32, 112, 160])
def test_shape_is_read_from_the_tensors(name, size):
    with torch.device("meta"):
        state = get_model(name, num_features=96, image_size=size).state_dict()
    assert shape_of(name, state) == (96, size)


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state},
    lambda state: {"backbone": state, "epoch": 3, "optimizer": {"param_groups": [{"lr": 0.1}]}},
    lambda state: {"epoch": 3, "global_step": 9, "state_dict_backbone": state, "state_dict_softmax_fc": {}},
    lambda state: {f"module.{key}": value for key, value in state.items()},
    lambda state: {"state_dict_backbone": {f"module.{key}": value for key, value in state.items()}},
    lambda state: state | {"cls_fc.weight": torch.ones(3, 8), "cls_fc.bias": torch.ones(3)},
    lambda state: state | {"BCT_FC.weight": torch.ones(8, 3), "eboundary.weight": torch.ones(3),
                           "discriminator.d_fc1.weight": torch.ones(100, 8)},
    lambda state: {"module.cls_fc.weight": torch.ones(3, 8)} | {f"module.{k}": v for k, v in state.items()},
])
def test_layouts(file, r18, wrap):
    torch.save(wrap(r18.state_dict()), file)
    assert same(load_state(file), r18.state_dict())
    assert load_model("r18", file).image_size == 32


def test_a_file_in_the_old_format(file, r18):
    torch.save(r18.state_dict(), file, _use_new_zipfile_serialization=False)
    assert same(load_state(file), r18.state_dict())


class Runs:
    """A pickle that makes a folder if its code is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(file, tmp_path):
    torch.save({"fc.weight": torch.ones(2), "x": Runs(tmp_path / "ran")}, file)
    with pytest.raises(UserError, match="model.pt is not a whole file of tensors"):
        load_state(file)
    assert not (tmp_path / "ran").exists()


def test_one_wrong_bit_is_refused(file, r18):
    torch.save(r18.state_dict(), file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model.pt is not a whole file of tensors.*the checksum of a tensor differs"):
        load_state(file)


def test_tied_weights_and_other_dicts(file, r18):
    state = r18.state_dict()
    torch.save(state | {"again": state["fc.weight"], "and_again": state["fc.weight"]}, file)
    assert "again" in load_state(file)
    for wrong in ({1: torch.ones(2)}, {"fc.weight": torch.ones(2, dtype=torch.complex64)}):
        torch.save(wrong, file)
        with pytest.raises(UserError, match="holds no state dict of a backbone"):
            load_state(file)


def test_compressed_files_are_refused(file, r18):
    torch.save(r18.state_dict(), file)
    with zipfile.ZipFile(file) as plain:
        members = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    with pytest.raises(UserError, match="model.pt is not a whole file of tensors.*it is compressed"):
        load_state(file)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated(file, r18, share, legacy):
    torch.save(r18.state_dict(), file, _use_new_zipfile_serialization=not legacy)
    os.truncate(file, int(share * file.stat().st_size))
    with pytest.raises(UserError, match="model.pt is not a whole file of tensors"):
        load_model("r18", file)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip", b"\x80\x02}q\x00."])
def test_foreign_bytes(file, content):
    file.write_bytes(content)
    with pytest.raises(UserError, match="model.pt"):
        load_state(file)


@pytest.mark.parametrize("data", [{}, [], torch.ones(3), {"weight": torch.ones(2), "class_start": 0},
                                  {"state_dict": {}}, {"backbone": {"epoch": 3}}])
def test_other_objects_are_refused(file, data):
    torch.save(data, file)
    with pytest.raises(UserError, match="model.pt holds no state dict"):
        load_state(file)


@pytest.mark.parametrize("value", [torch.ones(1).expand(10**6, 10**6), torch.ones(10**9, device="meta"),
                                   torch.sparse_coo_tensor([[0]], [1.0], (10**12,))], ids=["view", "meta", "sparse"])
def test_tensors_that_are_larger_than_their_file(file, value):
    """The first one has 4 bytes in the file and would have 4 TB in a fingerprint."""
    torch.save({"weight": value}, file)
    with pytest.raises(UserError, match="model.pt promises more numbers than it holds"):
        load_state(file)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no model file .*absent.pt"):
        load_model("r18", tmp_path / "absent.pt")
    with pytest.raises(UserError, match="no model file"):
        load_state(tmp_path)


def test_other_network(file, r18):
    torch.save(r18.state_dict(), file)
    with pytest.raises(UserError) as error:
        load_model("r34", file)
    text = str(error.value)
    assert text.startswith(f"{file} does not hold a r34: layer1.2.bn1.weight is missing")
    assert text.endswith("this looks like r18") and "\n" not in text
    with pytest.raises(UserError, match="did you mean r18"):
        load_model("r_18", file)


def test_networks_of_the_same_shape_are_all_named(file):
    torch.save(get_model("vit_t", num_features=8, image_size=16).state_dict(), file)
    with pytest.raises(UserError, match="does not hold a mbf: layers.0.*; this looks like vit_t or vit_t_dp005_mask0$"):
        load_model("mbf", file)


@pytest.mark.parametrize("change, words", [
    ({"features.layers.2.weight": torch.ones(8, 100)}, r"features.layers.2.weight is \[8, 100\] instead of \[8, 512\]"),
    ({"features.layers.2.weight": torch.tensor(1.0)}, r"features.layers.2.weight is \[\] instead of \[512, 512\]"),
    ({"features.layers.0.layers.0.weight": torch.ones(0)}, r"features.layers.0.layers.0.weight is \[0\] instead of"),
    ({"layers.0.layers.0.weight": torch.ones(128, 1, 3, 3)}, r"layers.0.layers.0.weight is \[128, 1, 3, 3\] instead"),
    ({"head.weight": torch.ones(1)}, "head.weight has no place in it"),
])
def test_tensors_of_no_network(file, mbf, change, words):
    torch.save(mbf.state_dict() | change, file)
    with pytest.raises(UserError, match=f"does not hold a mbf: .*{words}.*; no other network here fits either"):
        load_model("mbf", file)


def test_missing_tensor(file, mbf):
    state = mbf.state_dict()
    del state["conv_sep.layers.1.running_mean"]
    torch.save(state, file)
    with pytest.raises(UserError, match="does not hold a mbf: conv_sep.layers.1.running_mean is missing; no other"):
        load_model("mbf", file)


# Fingerprints

STATE = {"b.weight": torch.arange(6.).reshape(2, 3), "a": torch.tensor(7), "c": torch.ones(2, dtype=torch.bfloat16)}


def test_fingerprint_by_hand():
    digest = hashlib.sha256()
    digest.update(b"a torch.int64 []\n" + np.int64(7).tobytes())
    digest.update(b"b.weight torch.float32 [2, 3]\n" + np.arange(6, dtype="<f4").tobytes())
    digest.update(b"c torch.bfloat16 [2]\n" + b"\x80\x3f\x80\x3f")
    assert fingerprint(STATE) == digest.hexdigest()


def test_fingerprint_survives_saving(file, r18):
    expected = fingerprint(r18.state_dict())
    for legacy in (False, True):
        torch.save(dict(reversed(r18.state_dict().items())), file, _use_new_zipfile_serialization=not legacy)
        assert fingerprint(load_state(file)) == expected
    assert fingerprint(load_model("r18", file).to(memory_format=torch.channels_last).state_dict()) == expected


@pytest.mark.parametrize("other", [
    STATE | {"a": torch.tensor(8)},
    STATE | {"a": torch.tensor(7, dtype=torch.int32)},
    STATE | {"b.weight": STATE["b.weight"].reshape(3, 2)},
    STATE | {"b.weight": STATE["b.weight"].t().contiguous().t() * -1},
    {("B.weight" if key == "b.weight" else key): value for key, value in STATE.items()},
    {key: value for key, value in STATE.items() if key != "a"},
])
def test_fingerprint_sees_every_change(other):
    assert fingerprint(other) != fingerprint(STATE)
