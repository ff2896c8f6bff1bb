"""Numbers computed once with the public code: inputs and outputs in tests/golden, or in the folder GOLDEN."""

import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from folders import golden_folder
from ranks import on_ranks

from backbones import get_model
from BCT_Methods.MixBCT.train import MixBCT
from engine.distributed import start_ranks
from engine.method import Clock
from engine.schedule import learning_rate
from engine.trainer import Trainer
from losses import ArcFace, CombinedMarginLoss, CosFace, PartialFC
from old_model.statistics import class_means, credible
from records.faces import FaceRecords
from records.images import to_input
from records.split import split


def golden(name: str) -> dict:
    with np.load(golden_folder() / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def near(found, expected, share: float) -> None:
    """max |found - expected| <= share * max |expected|."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= share * max(np.abs(expected).max(), 1e-30)


def ruled(state: dict, gain: float) -> dict:
    """The weight rule of the golden folder: every tensor from its own key."""
    out = {}
    for key, old in state.items():
        shape = tuple(old.shape)
        n = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape).astype(np.float32)
        if key.endswith("num_batches_tracked"):
            value = np.zeros(shape, np.int64)
        elif key.endswith("running_mean"):
            value = 0.05 * n
        elif key.endswith("running_var"):
            value = 1 + 0.2 * np.abs(n)
        elif key.endswith(".weight") and len(shape) >= 2:
            value = np.float32(gain / np.sqrt(np.prod(shape[1:]))) * n
        elif len(shape) >= 2 or key.endswith(".bias"):
            value = 0.05 * n
        elif key.removesuffix("weight") + "bias" in state:
            value = 1 + 0.1 * n
        else:
            value = 0.25 + 0.1 * n
        out[key] = torch.from_numpy(np.asarray(value, np.int64 if value.dtype == np.int64 else np.float32))
    return out


# 02 margins

@pytest.mark.parametrize("name, margin", [
    ("arcface", ArcFace()), ("cosface", CosFace()),
    ("combined_arc", CombinedMarginLoss(64, 1.0, 0.5, 0.0)),
    ("combined_cos", CombinedMarginLoss(64, 1.0, 0.0, 0.4)),
    ("combined_arc_filter04", CombinedMarginLoss(64, 1.0, 0.5, 0.0, 0.4)),
    ("combined_cos_filter04", CombinedMarginLoss(64, 1.0, 0.0, 0.4, 0.4)),
])
def test_margins(name, margin):
    g = golden("02_margin")
    cos = torch.from_numpy(g["cos"]).requires_grad_()
    out = margin(cos, torch.from_numpy(g["labels"])[:, 0])
    out.backward(torch.from_numpy(g["upstream"]))
    near(out.detach(), g[f"out_{name}"], 1e-6)
    near(cos.grad, g[f"grad_{name}"], 1e-6)


def test_margin_at_the_poles():
    g = golden("02_margin")
    cos = torch.from_numpy(g["ext_cos"]).requires_grad_()
    out = ArcFace()(cos, torch.from_numpy(g["ext_labels"])[:, 0])
    # The clamped sine (1e-3 instead of 0) moves the logit by 64 * sin(0.5) * 1e-3; the public gradient is not finite.
    near(out.detach(), g["ext_out_arcface"], 64 * np.sin(0.5) * 1.01e-3 / 64)
    out.sum().backward()
    assert not np.isfinite(g["ext_grad_arcface"]).all() and cos.grad.isfinite().all()


# 03 PartialFC

def head_of(g: dict, margin, classes: int, weight: str, **more) -> PartialFC:
    head = PartialFC(margin, 16, classes, **more)
    rows = g[weight][head.class_start:head.class_start + head.num_local]
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rows))
    return head


def own(array: np.ndarray) -> torch.Tensor:
    """This rank's rows of a global batch."""
    return torch.from_numpy(array).chunk(dist.get_world_size())[dist.get_rank()].clone()


def partial_fc_of_this_rank(g: dict) -> dict:
    out = {}
    for classes in (10, 11):
        for name, margin in (("arc", ArcFace()), ("cos", CosFace())):
            head = head_of(g, margin, classes, "pfc_weight")
            new = own(g["pfc_emb"]).requires_grad_()
            loss = head(new, own(g[f"pfc_labels_c{classes}"]))
            loss.backward()
            out |= {f"pfc_c{classes}_{name}_{k}": np.asarray(v) for k, v in
                    (("loss", loss.detach()), ("grad_emb", new.grad), ("grad_weight", head.weight.grad),
                     ("class_start", head.class_start), ("num_local", head.num_local))}
    for name, rate in (("sam05", 0.5), ("sam02", 0.2)):
        out |= sampled_of_this_rank(g, name, rate)
    return out


def sampled_of_this_rank(g: dict, name: str, rate: float) -> dict:
    head = head_of(g, ArcFace(), 20, "sam_weight", sample_rate=rate)
    optimizer = torch.optim.SGD(head.parameters(), 0.1, 0.9, weight_decay=5e-4)
    head.bind(optimizer)
    out = {f"{name}_num_sample": head.sampler.count}
    for step in range(3):
        head.sampler.scores = lambda rows, step=step: own(g["sam_perm"][step])
        new = own(g["sam_emb"][step]).requires_grad_()
        loss = head(new, own(g["sam_labels"][step]))
        loss.backward()
        grad = head.sampler.active.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        values = {"loss": loss.detach(), "grad_emb": new.grad, "weight_index": head.sampler.rows,
                  "grad_weight_activated": grad, "weight_activated_after": head.sampler.active.detach().clone(),
                  "mom_after": optimizer.state[head.sampler.active]["momentum_buffer"].clone()}
        out |= {f"{name}_step{step}_{k}": np.asarray(v) for k, v in values.items()}
    return out | {f"{name}_final_weight": head.weight.numpy(),
                  f"{name}_final_weight_mom": head.sampler.state["momentum_buffer"].numpy()}


@pytest.mark.parametrize("world_size", [1, 2])
def test_partial_fc(world_size):
    g = golden("03_partial_fc")
    checked = set()
    for rank, found in enumerate(on_ranks(world_size, partial_fc_of_this_rank, g)):
        for name, value in found.items():
            key = f"ws{world_size}_r{rank}_{name}"
            near(value, g[key], 2e-5)
            checked.add(key)
    assert {k for k in g if k.startswith(f"ws{world_size}_")} == checked


# 04 MixBCT

class Replaced(MixBCT):
    """MixBCT on arrays instead of files, with the public run's draw."""

    def __init__(self, old, credible_marks, rows=None):
        torch.nn.Module.__init__(self)
        self.cfg = SimpleNamespace(mix_ratio=0.3, seed=0)
        self.old, self.credible, self.rows = old, credible_marks, rows

    def replaced(self, index, clock):
        return self.rows[clock.step] if self.rows else super().replaced(index, clock)


def bank(raw: np.ndarray) -> torch.Tensor:
    return F.normalize(torch.from_numpy(raw))


def mixbct_of_this_rank(g: dict) -> dict:
    prefix = f"ws{dist.get_world_size()}_r{dist.get_rank()}_mix_"
    old, marks = bank(g["old_feature_raw"]), torch.from_numpy(g["credible"])
    new, index, labels = own(g["new_emb"]).requires_grad_(), own(g["index"]), own(g["labels"])
    head = head_of(g, ArcFace(), 10, "weight")
    seen = {}

    def spy(embeddings, labels):
        seen["mixed"] = embeddings.detach().clone()
        return head(embeddings, labels)

    rows = torch.from_numpy(g[prefix + "replaced_rows"])
    loss = Replaced(old, marks, [rows])(spy, new, labels, index, Clock(0, 0, 0.0))["cls"]
    loss.backward()
    drawn = Replaced(old, marks).replaced(index, Clock(0, 0, 0.0))
    assert len(drawn) == len(rows) and marks[index[drawn]].all() and len(set(drawn.tolist())) == len(drawn)
    return {"old_feature_normalized": old, "credible_rows": marks[index].nonzero()[:, 0], "replaced_rows": rows,
            "mixed_emb": seen["mixed"], "loss": loss.detach(), "grad_new_emb": new.grad,
            "grad_weight": head.weight.grad}


@pytest.mark.parametrize("world_size", [1, 2])
def test_mixbct(world_size):
    g = golden("04_mixbct")
    for rank, found in enumerate(on_ranks(world_size, mixbct_of_this_rank, g)):
        for name, value in found.items():
            near(value, g[f"ws{world_size}_r{rank}_mix_{name}"], 2e-5)


# 10 learning rate and tools

@pytest.mark.parametrize("name, warmup", [("0", 0), ("10", 10), ("minus3", -3)])
def test_learning_rate(name, warmup):
    g = golden("10_lr")
    found = [learning_rate(step, float(g["base_lr"]), int(g["max_steps"]), warmup, power=2) for step in range(101)]
    near(found, g[f"lr_warmup_{name}"], 1e-12)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_credible(share):
    g = golden("10_tools")
    name = f"mask_T{round(10 * share):02d}"
    assert np.array_equal(credible(g["feature"], g["label"], share), g[name])
    # The public tool takes each run of equal labels for a class: number the runs to ask ours the same question.
    runs = np.concatenate([[0], np.cumsum(np.diff(g["nc_label"]) != 0)])
    assert np.array_equal(credible(g["nc_feature"], runs, share), g[f"nc_{name}"])
    # Ours takes equal labels for a class, in any order.
    order = np.random.default_rng(0).permutation(len(g["label"]))
    assert np.array_equal(credible(g["feature"][order], g["label"][order], share), g[name][order])


def test_prototypes():
    g = golden("10_tools")
    for feature, label, public in (("avg_feature_in", "avg_label_in", "avg_out_original"),
                                   ("single_last_feature", "single_last_label", "single_last_avg_out")):
        means = class_means(g[feature], g[label])
        near(means / np.linalg.norm(means, axis=1, keepdims=True), g[public], 1e-6)
    means = class_means(g["avg_feature_in"], g["avg_label_in"])
    near(means, g["avg_before_normalize_correct"], 1e-6)
    near(means / np.linalg.norm(means, axis=1, keepdims=True), g["avg_correct_normalized"], 1e-6)
    # The public tool divides the last class by n - 1 = 12 instead of 13.
    means[-1] *= 13 / 12
    near(means, g["avg_before_normalize_original"], 1e-6)


# 13 three whole training steps

def test_training_steps(monkeypatch):
    g = golden("13_train_steps")
    norms = []
    clip = Trainer.clip_gradients
    monkeypatch.setattr(Trainer, "clip_gradients", lambda trainer: norms.append(clip(trainer)) or norms[-1])
    start_ranks()
    backbone = get_model("r18", fp16=False, num_features=64)
    backbone.load_state_dict(ruled(backbone.state_dict(), 1.0))
    head = PartialFC(ArcFace(), 64, 6)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(g["pfc_weight"]))
    rows = [torch.from_numpy(g[f"step{step}_replaced_rows"]) for step in range(3)]
    method = Replaced(bank(g["old_feature_raw"]), torch.from_numpy(g["credible"]), rows)
    cfg = SimpleNamespace(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, fp16=False, gradient_acc=1,
                          clip=5.0)
    trainer = Trainer(cfg, SimpleNamespace(device=torch.device("cpu")), backbone.train(), method, head)
    images = torch.from_numpy(g["img_u8"]).permute(0, 2, 3, 1).contiguous()
    for step, accept in enumerate((1e-4, 2e-3, 1e-2)):
        lr = learning_rate(step, 0.1, 10, power=2)
        near(lr, g[f"step{step}_lr_used"], 1e-12)
        clock = Clock(0, step, step / 10)
        terms = trainer.step(images, torch.from_numpy(g["labels"]), torch.from_numpy(g["index"][step]),
                             torch.zeros(8, dtype=torch.bool), clock, lr)
        state = {key: value for key, value in backbone.state_dict().items()}
        near(terms["cls"], g[f"step{step}_loss"], accept)
        near(norms[step], g[f"step{step}_grad_norm_before_clip"], accept)
        near([state[key].double().norm() for key in g["param_l2_keys"]], g[f"step{step}_param_l2"], accept)
        near(head.weight.detach(), g[f"step{step}_pfc_weight"], accept)
        near(state["layer4.1.conv2.weight"][:4, :4].flatten(), g[f"step{step}_layer4.1.conv2.weight"], accept)
        for key in ("fc.bias", "features.bias", "bn1.running_mean", "prelu.weight"):
            near(state[key], g[f"step{step}_{key}"], accept)
    dist.destroy_process_group()


# 12 split and data set

def test_split(tmp_path):
    g = golden("12_split")
    source = golden_folder() / "split_tiny"
    train = FaceRecords(source / "train")
    assert np.array_equal(train.records.unpack(0)[0].label, g["train_header"])
    labels = np.stack([train.records.unpack(int(key))[0].label for key in train.keys])
    assert np.array_equal(labels, g["train_labels"])
    assert np.array_equal(np.bincount(train.labels()), g["counts"])
    split(train, 0.3, tmp_path)
    for name in ("30_class", "70_class", "30_data", "70_data"):
        for end in (".rec", ".idx"):
            file = f"train_part_{name}{end}"
            assert (tmp_path / file).read_bytes() == (source / file).read_bytes()
        percent, kind = name.split("_")
        key = kind + percent
        part = FaceRecords(tmp_path / f"train_part_{name}")
        header = part.records.unpack(0)[0]
        assert header.flag == g[f"{key}_header_flag"] and np.array_equal(header.label, g[f"{key}_header_label"])
        assert np.array_equal(part.records.keys, g[f"{key}_idx_file_order"])
        assert np.array_equal(part.keys, g[f"{key}_keys"])
        headers = [part.records.unpack(int(k))[0] for k in part.keys]
        for field in ("flag", "label", "id", "id2"):
            assert np.array_equal([getattr(h, field) for h in headers], g[f"{key}_{field}"])
        assert [part.jpeg(i) for i in range(len(part))] == [train.jpeg(k - 1) for k in g[f"{key}_source_key"]]


def test_data_set():
    g = golden("12_split")
    source = golden_folder() / "split_tiny"
    for name, file in (("train", "train"), ("class70", "train_part_70_class"), ("data30", "train_part_30_data")):
        data = FaceRecords(source / file)
        assert len(data) == g[f"ds_{name}_len"]
        assert np.array_equal(data.labels(), g[f"ds_{name}_labels"])
        assert np.array_equal([data[i][2] for i in range(len(data))], g[f"ds_{name}_index"])
    images = FaceRecords(source / "train").__getitems__([0, 1, 2])[0]
    assert np.abs(images.numpy().astype(int) - g["ds_train_first3_decoded_rgb"]).max() <= 2
    for name, flip in (("noflip", False), ("flip", True)):
        found = to_input(images, "cpu", torch.full((3,), flip)).numpy()
        assert np.abs(found - g[f"ds_train_first3_{name}"]).max() <= 2 / 127.5 + 1e-6
