"""Trainings on stored features: against a loop in float64, on two ranks, resumed; their map; inputs that are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trainings
from feature_toys import D_IN, first_map, new_features, settings_list, train, write_features, write_first_map
from method_loops import slow_terms
from method_toys import CLASSES, DIM, IMAGES, old_features, settings

from backbones.weights import load_model
from engine.distributed import start_ranks
from engine.method import Clock
from engine.parts import new_head
from evaluation.map_files import load_map, models_of
from evaluation.maps import BACKWARD, FORWARD
from losses import PartialFC
from tools.adapt import adapt
from utils.errors import UserError
from utils.origin import save_array
from utils.seed import generator

STEPS, BATCH, LR, DECAY, MOMENTUM = 8, 12, 0.05, 0.01, 0.9


@pytest.fixture
def store(tmp_path) -> Path:
    (tmp_path / "store").mkdir()
    return write_features(tmp_path / "store")


def first_class_vectors(seed: int) -> torch.Tensor:
    """The class vectors with which a training of this seed starts, float64."""
    start_ranks()
    try:
        cfg = settings("L2", Path(), seed=seed, margin_list=(1.0, 0.3, 0.1), scale=8.0)
        return new_head(cfg, PartialFC, CLASSES).weight.detach().double()
    finally:
        torch.distributed.destroy_process_group()


def g(p: list[torch.Tensor], u: torch.Tensor) -> torch.Tensor:
    """u W + b, with hidden units + gelu(u W1 + b1) W2, of one row; gelu by the error function."""
    out = u @ p[0] + p[1]
    if len(p) > 2:
        inner = u @ p[2] + p[3]
        out = out + (0.5 * inner * (1 + torch.erf(inner / 2 ** 0.5))) @ p[4]
    return out


def by_hand(name: str, cfg, hidden: bool) -> list[torch.Tensor]:
    """W, b (, W1, b1, W2) after all steps, in float64, by SGD with momentum and weight decay."""
    first = first_map(hidden)
    weights = [torch.from_numpy(part).double() for part in (first.weight, first.bias, *(first.hidden or ()))]
    weights.append(first_class_vectors(cfg.seed))
    momenta = [torch.zeros_like(part) for part in weights]
    features, labels = torch.from_numpy(new_features()).double(), torch.from_numpy(old_features()[1])
    for step in range(STEPS):
        epoch, batch = divmod(step, IMAGES // BATCH)
        order = torch.randperm(IMAGES, generator=generator(cfg.seed, "order", epoch))
        index = order[batch * BATCH:(batch + 1) * BATCH]
        parts = [part.clone().requires_grad_() for part in weights]
        new = torch.stack([g(parts[:-1], row / row.norm()) for row in features[index]])
        terms = slow_terms(name, cfg, Clock(epoch, step, step / STEPS), (new, labels[index], index), parts[-1], {}, [],
                           torch.zeros(BATCH, dtype=torch.bool))
        sum(terms.values()).backward()
        momenta = [MOMENTUM * m + part.grad + DECAY * part.detach() for m, part in zip(momenta, parts, strict=True)]
        weights = [part.detach() - LR * m for part, m in zip(parts, momenta, strict=True)]
    return weights[:-1]


@pytest.mark.parametrize("name, network", [("L2", "linear"), ("BCT", "linear"), ("L2", "mlp")])
def test_a_trained_map_equals_a_loop_in_float64(name, network, store, tmp_path):
    """Eight steps from a given map.npz; model.pt and map.npz hold the same map."""
    init = write_first_map(tmp_path / "first.npz", network == "mlp")
    more = ["bct_scale=12.0"] if name == "BCT" else []
    out = train(name, store, tmp_path / "out", f"network={network}", f"init={init}", *more)
    cfg = settings(name, store, **({"bct_scale": 12.0} if name == "BCT" else {}))
    expected = by_hand(name, cfg, network == "mlp")
    mapping, direction, error = load_map(out / "map.npz")
    assert direction == BACKWARD and np.isnan(error)
    found = [mapping.weight, mapping.bias, *(mapping.hidden or ())]
    start = first_map(network == "mlp")
    assert np.abs(found[0] - start.weight).max() > 0.02
    for part, value in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, value.numpy(), rtol=2e-4, atol=2e-5)
    state = torch.load(out / "model.pt", weights_only=True)
    assert torch.equal(state["linear.weight"].T, torch.from_numpy(mapping.weight))


@pytest.mark.long
@pytest.mark.parametrize("name, cosine", [("L2", 0.5), ("weakenedL2", 0.5), ("AdvBCT", 0.2), ("MixBCT", -1), ("NCCL", -1),
                                          ("BCT", -1), ("UniBCT", -1)])
def test_every_method_trains_on_features(name, cosine, store, tmp_path):
    """From a random start; cosine: with the old feature of the same image, for those whose terms pull there in this toy."""
    more = {"UniBCT": ["refine_epoch=[1]"]}.get(name, [])
    out = train(name, store, tmp_path / "out", f"num_epoch={12 if cosine > 0 else 2}", "lr=0.2", *more)
    mapped, old = load_map(out / "map.npz")[0](new_features()), old_features()[0]
    found = (mapped * old).sum(1) / np.linalg.norm(mapped, axis=1) / np.linalg.norm(old, axis=1)
    assert mapped.shape == (IMAGES, DIM) and found.mean() > cosine


@pytest.mark.long
def test_two_ranks_give_the_map_of_one(store, tmp_path):
    """The same global batches: 2 x 6 rows are one batch of 12."""
    init = write_first_map(tmp_path / "first.npz")
    maps = []
    for ranks in (1, 2):
        out = tmp_path / f"on {ranks}"
        words = settings_list("L2", store, out, f"init={init}", f"batch_size={12 // ranks}")
        started = trainings.start(words, "BCT_Methods.L2.train:L2", ranks, folder=tmp_path)
        assert trainings.join(started) == [0] * ranks, (tmp_path / "log_0").read_text()
        maps.append(load_map(out / "map.npz")[0])
    np.testing.assert_allclose(maps[0].weight, maps[1].weight, rtol=1e-4, atol=1e-6)
    assert not np.allclose(maps[0].weight, first_map(False).weight, atol=0.01)


@pytest.mark.long
def test_a_resumed_training_is_the_uninterrupted_one_and_does_not_read_init_again(store, tmp_path):
    """A kill at the sixth step, in the middle of the second epoch; then config.init is removed."""
    init = write_first_map(tmp_path / "first.npz")
    for out, kill in (("whole", None), ("killed", (0, "step", 7))):
        words = settings_list("L2", store, tmp_path / out, f"init={init}", "save_every=1")
        trainings.join(trainings.start(words, "BCT_Methods.L2.train:L2", kill=kill, folder=tmp_path))
    init.unlink()
    words = settings_list("L2", store, tmp_path / "killed", f"init={init}", "save_every=1", "resume=True")
    assert trainings.join(trainings.start(words, "BCT_Methods.L2.train:L2", folder=tmp_path)) == [0]
    log = (tmp_path / "log_0").read_text()
    assert "resumed from" in log and "init (contents) was" in log
    files = [trainings.newest_files(tmp_path / out)[0] for out in ("whole", "killed")]
    assert trainings.differences(*(torch.load(file, weights_only=True) for file in files)) == []
    assert (tmp_path / "whole/map.npz").read_bytes() == (tmp_path / "killed/map.npz").read_bytes()


@pytest.mark.parametrize("kind", ["feature", "label"])
def test_a_changed_feature_file_is_another_training(kind, store, tmp_path):
    """Other rows or other classes than those of the checkpoint."""
    train("L2", store, tmp_path / "out")
    change(store / f"OPclass/new_{kind}.npy", lambda x: np.where(np.arange(len(x)) == 3, 0, x) if kind == "label" else x * 1.01)
    change(store / "OPclass/f128_r18_softmax_class70_label.npy", lambda x: np.load(store / "OPclass/new_label.npy"))
    refused(store, tmp_path / "out", "is of another training", "resume=True", "num_epoch=3")


def test_plain_training_gives_no_map(store, tmp_path):
    """Its space is its own, not the old model's."""
    from engine import loop
    from engine.method import Method
    from engine.signals import StopSignal
    from utils.config import load_config

    config, *overrides = settings_list("L2", store, tmp_path / "out")
    with StopSignal() as stop:
        loop.train(load_config(config, overrides), Method, PartialFC, stop)
    assert (tmp_path / "out/model.pt").is_file() and not (tmp_path / "out/map.npz").exists()


def test_a_new_map_starts_random_and_mlp_starts_from_a_linear_map(store, tmp_path):
    """lr and decay of almost nothing: the result is the start.  W has a standard deviation of d_out^-1/2, hidden units give 0."""
    still = ["lr=1e-30", "weight_decay=0"]
    random = load_map(train("L2", store, tmp_path / "random", *still) / "map.npz")[0]
    assert random.weight.std() == pytest.approx(DIM ** -0.5, rel=0.25) and np.abs(random.bias).max() < 1e-20
    init = write_first_map(tmp_path / "first.npz")
    mlp = load_map(train("L2", store, tmp_path / "mlp", *still, "network=mlp", f"init={init}") / "map.npz")[0]
    rows = new_features()
    np.testing.assert_allclose(mlp(rows), first_map(False)(rows), rtol=1e-6)
    assert mlp.hidden[0].std() == pytest.approx(0.1, rel=0.1)
    assert "new with a random start: inner.weight, inner.bias, outer.weight, and" in (tmp_path / "mlp/training.log").read_text()
    again = load_map(train("L2", store, tmp_path / "again", *still, f"init={tmp_path / 'random/model.pt'}") / "map.npz")[0]
    np.testing.assert_allclose(again.weight, random.weight, rtol=1e-6)


def test_the_map_as_onnx(store, tmp_path, monkeypatch):
    """tools/adapt --export: onnxruntime gives what the .npz gives."""
    import onnxruntime

    out = train("L2", store, tmp_path / "out", "network=mlp")
    monkeypatch.setattr("sys.argv", ["adapt.py", "--export", str(out / "map.npz"), "--out", str(tmp_path / "onnx")])
    adapt.main()
    given = new_features()
    found = onnxruntime.InferenceSession(str(tmp_path / "onnx/map.onnx")).run(None, {"embedding": given})[0]
    np.testing.assert_allclose(found, load_map(out / "map.npz")[0](given), rtol=1e-4, atol=1e-5)


def test_images_cannot_be_given_to_a_map(store, tmp_path):
    """ijbc_eval, compare, export and get_feature open models with load_model."""
    out = train("L2", store, tmp_path / "out", "num_epoch=1")
    for network in ("linear", "mbf"):
        with pytest.raises(UserError, match="compare.py --fitted NAME=map.npz"):
            load_model(network, out / "model.pt")


def refused(store: Path, out: Path, match: str, *more: str) -> None:
    with pytest.raises(UserError, match=match):
        train("L2", store, out, *more)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def change(file: Path, function) -> None:
    np.save(file, function(np.load(file)))


BAD_FILES = {
    "labels-of-other-rows": ("new_label.npy", lambda x: np.roll(x, 5), "differs from .* rows"),
    "too few labels": ("new_label.npy", lambda x: x[:-1], "make both again"),
    "negative labels": ("new_label.npy", lambda x: x - 1, "classes from -1"),
    "huge labels": ("new_label.npy", lambda x: x + 2**40, "without large gaps"),
    "labels as text": ("new_label.npy", lambda x: x.astype(str), "not a whole .npy"),
    "labels as numbers": ("new_label.npy", lambda x: x.astype(float), "make both again"),
    "codes": ("new_feature.npy", lambda x: np.round(x * 20), "whole numbers only"),
    "one dimension": ("new_feature.npy", lambda x: x[:, 0], "make both again"),
    "a row of NaN": ("new_feature.npy", lambda x: np.where(np.arange(IMAGES)[:, None] == 7, np.nan, x), "image 7 is zeros, NaN"),
    "a row of zeros": ("new_feature.npy", lambda x: np.where(np.arange(IMAGES)[:, None] == 9, 0, x), "image 9 is zeros, NaN"),
    "old-rows-in-another-order": ("new_feature.npy", lambda x: x[::-1], "do not belong together"),
    "doubled": ("new_feature.npy", lambda x: np.concatenate([x, x]), "make both again"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(case, store, tmp_path):
    name, function, match = BAD_FILES[case]
    change(store / "OPclass" / name, function)
    refused(store, tmp_path / "out", match)


@pytest.mark.parametrize("more, match", [
    (["rec=train"], "expected config.rec = NAME_feature.npy"),
    (["rec=synthetic"], "synthetic are random images"),
    (["network=r18"], "set network=linear or network=mlp"),
    (["dropout=0.1"], "set dropout=0"),
    (["bad_records=skip"], "bad_records=stop"),
    (["old_feature=OPclass/new_feature.npy"], "are the same file"),
    (["num_classes=5"], "below config.num_classes"),
    (["embedding_size=5"], r"\[48, 5\]"),
])
def test_settings_that_do_not_fit_are_refused(more, match, store, tmp_path):
    refused(store, tmp_path / "out", match, *more)


def test_maps_that_do_not_fit_are_refused(store, tmp_path):
    mlp, forward = write_first_map(tmp_path / "mlp.npz", True), write_first_map(tmp_path / "forward.npz", False, FORWARD)
    refused(store, tmp_path / "a", "a residual MLP needs network=mlp", f"init={mlp}")
    refused(store, tmp_path / "b", "fit one without --reverse", f"init={forward}")
    refused(store, tmp_path / "c", "no file", f"init={tmp_path / 'missing.npz'}")
    torch.save({"fc.weight": torch.ones(DIM, D_IN)}, tmp_path / "other.pt")
    refused(store, tmp_path / "d", "does not hold a map of features", f"init={tmp_path / 'other.pt'}")
    torch.save({"linear.weight": torch.full((DIM, D_IN), torch.nan), "linear.bias": torch.zeros(DIM)}, tmp_path / "nan.pt")
    refused(store, tmp_path / "e", "not all finite", f"init={tmp_path / 'nan.pt'}")


def test_a_trained_map_says_which_models_its_features_are_of(store, tmp_path):
    """So that compare refuses it for another pair of models."""
    for side, dim in (("new", D_IN), ("old", DIM)):
        file = next((store / "OPclass").glob("new_feature.npy" if side == "new" else "*r18*class70_feature.npy"))
        save_array(file, np.load(file), {"model": f"{side} model", "dim": dim})
    out = train("L2", store, tmp_path / "out", "num_epoch=1")
    assert models_of(out / "map.npz") == {"new": {"fingerprint": "new model", "dim": D_IN},
                                          "old": {"fingerprint": "old model", "dim": DIM}}
