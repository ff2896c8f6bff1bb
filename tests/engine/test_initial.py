"""config.init: which weights a training starts from, what is new, and which files are refused."""

import pytest
import torch
from recorded import write_data

from backbones import get_model
from engine import loop
from engine.initial import start_from
from engine.method import Method
from engine.settings import settings_of
from engine.signals import StopSignal
from losses import PartialFC
from records.facts import Facts
from utils.config import load_config
from utils.errors import UserError

LAST = {"features.layers.2.weight", "features.layers.3.weight", "features.layers.3.bias", "features.layers.3.running_mean",
        "features.layers.3.running_var"}            # of mbf: the tensors whose shape depends on the embedding size
AREA = "features.layers.0.layers.0.weight"          # the one whose shape depends on the image size


def save(path, dim: int = 8, size: int = 16, network: str = "mbf", prefix: str = "", wrap=lambda state: state):
    """A file with random weights, BatchNorm statistics among them; its state dict."""
    torch.manual_seed(1)
    state = {name: value if value.dtype == torch.int64 else torch.rand_like(value)
             for name, value in get_model(network, num_features=dim, image_size=size).state_dict().items()}
    torch.save(wrap({prefix + name: value for name, value in state.items()}), path)
    return state


WRITERS = {"model.pt": {}, "DDP": {"prefix": "module."}, "insightface": {},
           "public code": {"wrap": lambda state: {"state_dict_backbone": state | {"cls_fc.weight": torch.ones(3)}, "epoch": 3}}}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("dim, size, new", [(8, 16, set()), (12, 16, LAST), (8, 32, {AREA}), (12, 32, LAST | {AREA})])
def test_all_tensors_of_the_same_shape_are_loaded_and_the_others_named(kind, dim, size, new, tmp_path):
    state = save(tmp_path / "first.pt", **WRITERS[kind])
    torch.manual_seed(2)
    backbone = get_model("mbf", num_features=dim, image_size=size)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    text = start_from(backbone, "mbf", tmp_path / "first.pt")
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name] if name in new else state[name]), name
    assert text.startswith(f"init {tmp_path / 'first.pt'}: {len(state) - len(new)} of {len(state)} tensors")
    assert [name in text for name in sorted(new)] == [True] * len(new)
    assert ("8 dimensions there, 12 here" in text) == (dim == 12) and ("16 pixels there, 32 here" in text) == (size == 32)


@pytest.fixture
def files(tmp_path):
    """Files that cannot be a start, by name."""
    save(tmp_path / "r18.pt", network="r18")
    state = save(tmp_path / "first.pt")
    torch.save(state | {AREA: torch.full_like(state[AREA], torch.nan)}, tmp_path / "nan.pt")
    torch.save(state | {AREA: state[AREA].to(torch.int8)}, tmp_path / "int8.pt")
    torch.save({name: value for name, value in state.items() if name != AREA}, tmp_path / "part.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "first.pt").read_bytes()[:1000])
    (tmp_path / "text.pt").write_text("weights")
    (tmp_path / "map.npz").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("name, match", [
    ("r18.pt", "this looks like r18"), ("nan.pt", "not all finite"), ("int8.pt", "whole numbers"), ("part.pt", "not hold a mbf"),
    ("cut.pt", "not a whole file"), ("text.pt", "not a whole"), ("missing.pt", "no model file"), ("map.npz", "is not a map")])
def test_another_file_is_refused_and_nothing_is_loaded(name, match, files):
    backbone = get_model("mbf", num_features=8, image_size=16)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(UserError, match=match):
        start_from(backbone, "mbf", files / name)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.long
def test_a_training_starts_from_the_file_and_logs_it(tmp_path):
    """At a learning rate of almost nothing its parameters stay those of the file."""
    data = write_data(tmp_path / "data")
    state = save(tmp_path / "first.pt", dim=6)
    cfg = load_config(data / "toy.py", [f"dataset={data}", f"output={tmp_path / 'out'}", "network=mbf",
                                        f"init={tmp_path}/first.pt", "num_epoch=1", "lr=1e-30", "weight_decay=0",
                                        "embedding_size=6"])
    with StopSignal() as stop:
        loop.train(cfg, Method, PartialFC, stop)
    trained = torch.load(tmp_path / "out/model.pt", weights_only=True)
    parameters = dict(get_model("mbf", num_features=6, image_size=16).named_parameters())
    assert all(torch.allclose(trained[name], state[name], atol=1e-20) for name in parameters)
    assert f"{len(state)} of {len(state)} tensors of the backbone loaded" in (tmp_path / "out/training.log").read_text()


def test_init_is_a_setting_by_its_contents(tmp_path):
    """The same file in another place is the same training; another file, or none, is a changed setting."""
    data = write_data(tmp_path / "data")
    for name, dim in (("a.pt", 8), ("b.pt", 9)):
        save(tmp_path / name, dim)
    (tmp_path / "copy.pt").write_bytes((tmp_path / "a.pt").read_bytes())

    def identity(*more: str) -> dict:
        return settings_of(load_config(data / "toy.py", [f"dataset={data}", *more]), Facts(1, 2), Method, PartialFC)
    a = identity(f"init={tmp_path}/a.pt")
    assert a == identity(f"init={tmp_path}/copy.pt")
    for other in (identity(f"init={tmp_path}/b.pt"), identity()):
        assert {key for key in a.keys() | other.keys() if a.get(key) != other.get(key)} == {"init (contents)"}
    assert identity()["init (contents)"] == "random"            # what a resumed run without init says it was
