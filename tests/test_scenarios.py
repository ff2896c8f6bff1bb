"""Every method in all four scenarios, from its own configs at toy size."""

import io
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from method_toys import METHODS, VARIANTS
from toy_scenarios import DIMS, config, write_scenarios

from backbones.weights import fingerprint
from engine.loop import main
from engine.model_files import whole_classifier
from evaluation.view_files import find_view

MORE = {"UniBCT": ["refine_epoch=[0]"], "NCCL": ["queue_size=16", "credible_only=True"]}
TERMS = {"MixBCT": {"cls"}, "L2": {"cls", "l2"}, "weakenedL2": {"cls", "l2"}, "BCT": {"cls", "bct"},
         "UniBCT": {"cls", "bct"}, "NCCL": {"cls", "feature", "logit"}, "AdvBCT": {"cls", "p2s", "adv"}}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return write_scenarios(tmp_path_factory.mktemp("scenarios"))


def train(name: str, scenario: str, place: Path, output: Path, *more: str) -> str:
    """Run the method's script in this process; what it logged."""
    settings = [f"dataset={place}/data", f"feature_save={place}/feature_save", f"output={output}", "network=cnn_s",
                "image_size=16", "batch_size=12", "num_epoch=1", "workers=0", "val_targets=[]", "frequent=1", "lr=0.01"]
    log = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(log):
        patch.setattr("sys.argv", ["train.py", config(name, scenario), *settings, *MORE.get(name, []), *more])
        main(VARIANTS[name])
    assert not dist.is_initialized()
    return log.getvalue()


@pytest.mark.parametrize("scenario", DIMS)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_method_trains_in_a_scenario(name, scenario, place, tmp_path):
    """The log names the method's terms, and model.pt holds the backbone only."""
    log = train(name, scenario, place, tmp_path)
    terms = log.split("  loss ")[1].split("  lr ")[0].split("  ")[1:]
    assert {term.split()[0] for term in terms} == TERMS[name]
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert not any(key.startswith(("influence", "queue", "elastic", "discriminator")) for key in state)


@pytest.mark.long
@pytest.mark.parametrize("scenario", DIMS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_against_features_of_another_dimension(name, scenario, place, tmp_path):
    """More dimensions in two scenarios, fewer in two; the view and the class vectors of its head are next to model.pt."""
    new, old = 192 if "EX" in scenario else 64, DIMS[scenario]
    log = train(name, scenario, place, tmp_path, f"embedding_size={new}", f"old_dim={old}")
    terms = log.split("  loss ")[1].split("  lr ")[0].split("  ")[1:]
    has_head = name in ("MixBCT", "NCCL")
    assert {term.split()[0] for term in terms} == TERMS[name] | ({"view"} if has_head else set())
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    view = find_view(tmp_path / "model.pt", (new, old), fingerprint(state))
    assert np.array_equal(view.weight, np.eye(new, old)) == (new > old)
    assert whole_classifier(tmp_path)["weight"].shape[1] == new
    assert (tmp_path / f"view_{old}").is_dir() == has_head
    if has_head:
        assert whole_classifier(tmp_path / f"view_{old}")["weight"].shape[1] == old


@pytest.mark.parametrize("name", ["MixBCT", "L2", "BCT", "UniBCT", "AdvBCT"])
def test_a_method_trains_with_a_sampled_head(name, place, tmp_path):
    assert "loss" in train(name, "OPclass", place, tmp_path, "sample_rate=0.5")
