"""Each setting of configs/base.py has its effect on a training, at a value that is not its default."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from recorded import Net, Run, record, write_data
from toy import write_records

from backbones.weights import fingerprint, load_state
from BCT_Methods.BCT.train import old_prototypes
from engine.distributed import start_ranks
from losses import PartialFC
from old_model.features import load_prototypes, old_side
from old_model.sides import old_dim
from records.recordio import RecordReader
from utils.config import read_schema
from utils.errors import UserError
from utils.files import quick_hash
from utils.paths import ROOT

_, BASE = read_schema(ROOT / "configs")
# 42 images, seven batches of six in each of three epochs; two batches to an update.
FIRST = ["rec=other", "num_classes=7", "num_image=30", "workers=1", "image_size=32", "val_targets=['pairs','missing']",
         "network=mbf", "embedding_size=12", "dropout=0.3", "margin_list=(1.0,0.3,0.1)", "scale=16.0",
         "interclass_filtering_threshold=0.1", "lr=0.03", "momentum=0.7", "weight_decay=0.002", "batch_size=6", "gradient_acc=2",
         "num_epoch=3", "warmup_epoch=1", "lr_power=2", "clip=0.01", "seed=7", "frequent=4", "verbose=5", "save_every=3",
         "keep_checkpoints=3", "timeout=12"]
OLD = ["scenario=OPclass", "old_model={old}/model.pt", "old_feature=EX/a_feature.npy", "credible=EX/a_mask.npy",
       "prototypes=EX/a_mean.npy", "old_classifier={old}", "feature_save={old}/saved", "old_dim=10"]
# 49 images, one of them corrupt; a run that was killed before its tenth step is resumed.
SECOND = ["optimizer=adamw", "sample_rate=0.6", "decay_epoch=[1]", "deterministic=True", "bad_records=skip", "save_every=2",
          "num_classes=40"]
THIRD = ["rec=synthetic", "num_image=32", "num_classes=4", "num_epoch=1", "momentum=0", "weight_decay=0", "lr_power=0",
         "clip=0.001", "fp16=True"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> SimpleNamespace:
    """The recorded runs first, second and third; data; folder, which holds their outputs; old, the old model's files."""
    folder = tmp_path_factory.mktemp("settings")
    data, old = write_data(folder / "data"), folder / "old"
    write_records(data / "other", [9, 12, 10, 7, 4])
    (old / "saved/EX").mkdir(parents=True)
    for k, name in enumerate(("a_feature.npy", "a_mask.npy", "a_mean.npy", "a_label.npy")):
        np.save(old / "saved/EX" / name, np.full((7, 10), k, np.float32))
    (old / "softmax_fc_gpu_0.pt").write_bytes(b"class vectors")
    torch.save({"fc.weight": torch.ones(3, 512), "features.weight": torch.ones(3)}, old / "model.pt")
    first = record(data, folder / "first", *FIRST, *(text.format(old=old) for text in OLD))
    assert first.code == 0, first.log
    corrupt = folder / "corrupt"
    corrupt_image_20(write_data(corrupt))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", "")         # restored afterwards
        del os.environ["CUBLAS_WORKSPACE_CONFIG"]
        assert record(corrupt, folder / "second", *SECOND, before_step=kill).code == 9
        second = record(corrupt, folder / "second", *SECOND, "resume=True")
        workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    third = record(data, folder / "third", *THIRD)          # deterministic=False again
    assert (second.code, third.code) == (0, 0), second.log + third.log
    return SimpleNamespace(first=first, second=second, third=third, data=data, folder=folder, old=old, workspace=workspace)


def corrupt_image_20(data: Path) -> None:
    """Overwrite a part of its JPEG; image 20 is also in the second half of the second epoch."""
    reader = RecordReader(data / "train")
    content = bytearray(reader.path.read_bytes())
    offset = int(reader.offsets[reader.row(21)])
    content[offset + 40:offset + 60] = bytes(20)
    reader.path.write_bytes(content)


def kill(step: int) -> None:
    if step == 9:
        raise SystemExit(9)


def dataset(run: Run):
    return run.trainer.plain_method.starts[0][2]


def kept(r, name: str) -> str:
    """Checksum of a file's contents that the first run's checkpoint keeps."""
    about = json.loads((r.folder / "first/checkpoints/126/complete.json").read_text())
    return about["settings"][f"{name} (contents)"]


def kept_side(r) -> dict:
    return old_side(r.first.trainer.cfg, r.first.trainer.plain_method.data, "old_feature")


def kept_rows(r):
    """The prototypes that the first run would use."""
    cfg = r.first.trainer.cfg
    side = old_side(cfg, r.first.trainer.plain_method.data, "prototypes")
    return load_prototypes(**side, num_classes=7, dim=old_dim(cfg), classes=slice(7))


def checksum(r, file: str) -> str:
    return quick_hash(r.old / file)[:12]


def first_loss(r) -> float:
    """The head's loss in the first step, by a loop: m2 = 0.3, m3 = 0.1, scale 16; non-target cosines above 0.1 count as 0."""
    call, rows, total = r.first.trainer.plain_method.calls[0], r.first.steps[0]["before"]["head.weight"].double(), 0.0
    for z, y in zip(call.new.double(), call.labels.tolist(), strict=True):
        cos = [float(z @ row / row.norm() / z.norm()) for row in rows]
        assert math.acos(cos[y]) + 0.3 < math.pi
        logits = [16 * (math.cos(math.acos(c) + 0.3) - 0.1 if k == y else 0 if c > 0.1 else c) for k, c in enumerate(cos)]
        total += math.log(sum(map(math.exp, logits))) - logits[y]
    return total / len(call.new)


def initial() -> dict[str, torch.Tensor]:
    """First weights of backbone and head by seed 7."""
    start_ranks()
    rows = PartialFC(None, 12, 7, seed=7).weight.detach()
    dist.destroy_process_group()
    torch.manual_seed(7)
    return {"backbone.fc.weight": Net(12, 32).fc.weight.detach(), "head.weight": rows}


def group(run: Run, name: str) -> set:
    return {group[name] for group in run.trainer.optimizer.param_groups}


def distances(run: Run) -> list[float]:
    """Length of the move of the backbone's learnt weights in each step but the last."""
    learnt = [f"backbone.{name}" for name, _ in run.trainer.plain_backbone.named_parameters()]
    flat = [torch.cat([step["before"][name].flatten() for name in learnt]) for step in run.steps]
    return [float((after - before).norm()) for before, after in zip(flat, flat[1:], strict=False)]


def refusal(function, *args) -> str:
    with pytest.raises(UserError) as error:
        function(*args)
    return str(error.value)


# setting: a function of the runs that returns (what a training showed, what it must show)
CHECKS = {
    "dataset": lambda r: (dataset(r.first).path, r.data / "other.rec"),
    "rec": lambda r: (len(dataset(r.first)), 42),
    "num_classes": lambda r: (len(r.first.trainer.head.weight), 7),
    "num_image": lambda r: ((len(dataset(r.third)), "num_image = 30, but other holds 42 images" in r.first.log), (32, True)),
    "workers": lambda r: ({len(call.children - r.first.children) for call in r.first.trainer.plain_method.calls}, {1}),
    "bad_records": lambda r: (" images had a corrupt record and were replaced" in r.second.log, True),
    "image_size": lambda r: ({x.shape[1:] for _, x in r.first.trainer.plain_backbone.inputs}, {(3, 32, 32)}),
    "val_targets": lambda r: (({name for name, *_ in r.first.scalars if name.startswith("verification")},
                               "no verification set " + str(r.data / "missing.bin") in r.first.log),
                              ({"verification/pairs"}, True)),
    # tests/engine/test_initial.py shows what is loaded: the network here is a toy.
    "init": lambda r: ("no model file" in record(r.data, r.folder / "init", "init=none.pt", "network=mbf").log, True),
    "network": lambda r: (r.first.networks[0]["name"], "mbf"),
    "embedding_size": lambda r: (r.first.trainer.head.weight.shape[1], 12),
    "dropout": lambda r: (r.first.networks[0]["dropout"], 0.3),
    "fp16": lambda r: ([(run.networks[0]["fp16"], run.trainer.head.fp16) for run in (r.first, r.third)],
                       [(False, False), (True, True)]),
    "margin_list": lambda r: (float(r.first.steps[0]["terms"]["cls"]), pytest.approx(first_loss(r), rel=1e-4)),
    "scale": lambda r: (r.first.trainer.head.margin.s, 16.0),
    "interclass_filtering_threshold": lambda r: (r.first.trainer.head.margin.interclass_filtering_threshold, 0.1),
    "sample_rate": lambda r: (len(r.second.trainer.head.sampler.rows), 24),
    "optimizer": lambda r: (type(r.second.trainer.optimizer), torch.optim.AdamW),
    "lr": lambda r: (max(step["lr"] for step in r.first.steps), 0.03),
    "momentum": lambda r: (group(r.first, "momentum"), {0.7}),
    "weight_decay": lambda r: (group(r.first, "weight_decay"), {0.002}),
    "batch_size": lambda r: ({len(step["index"]) for step in r.first.steps}, {6}),
    "gradient_acc": lambda r: ([step["update"] for step in r.first.steps], [False, True] * 10 + [False]),
    "num_epoch": lambda r: (len(r.first.steps), 3 * 7),
    # 3 updates of warm-up out of 10.
    "warmup_epoch": lambda r: ([step["lr"] for step in r.first.steps[:7]],
                               pytest.approx([0, 0, 0.01, 0.01, 0.02, 0.02, 0.03])),
    "lr_power": lambda r: (r.first.steps[-1]["lr"], 0.03 * (1 - 7 / 7) ** 2),
    "decay_epoch": lambda r: ([step["lr"] for step in r.second.steps], pytest.approx([0.002] * 4)),
    "clip": lambda r: (distances(r.third), pytest.approx([0.02 * 0.001] * 3, rel=0.02)),
    "output": lambda r: ({path.name for path in (r.folder / "first").iterdir()}, {
        "model.pt", "softmax_fc_gpu_0.pt", "checkpoints", "training.log", "tensorboard", "lock"}),
    "seed": lambda r: ([torch.equal(r.first.steps[0]["before"][name], value) for name, value in initial().items()], [True, True]),
    "deterministic": lambda r: ((r.second.repeatable, r.third.repeatable, r.workspace),
                                ((True, False), (False, True), ":4096:8")),
    "frequent": lambda r: ([step for step, _ in r.first.values("loss")], [1, 4, 8, 12, 16, 20, 21]),
    "verbose": lambda r: ([step for step, _ in r.first.values("verification/pairs")], [5, 7, 10, 14, 15, 20, 21]),
    "resume": lambda r: (r.second.steps[0]["clock"].step, 8),
    # After steps 3, 6, 9 ... and each epoch, or at the next update, which is after an even step.
    "save_every": lambda r: ([event[1:] for event in r.first.events if event[0] == "save"],
                             [(0, 24), (0, 36), (1, 6), (1, 18), (1, 30), (2, 0), (2, 12), (2, 24), (3, 0)]),
    "keep_checkpoints": lambda r: (len(list((r.folder / "first/checkpoints").iterdir())), 3),
    "timeout": lambda r: (r.first.timeouts, [12]),
    "dali": lambda r: ("config.dali = True is not supported" in record(r.data, r.folder / "dali", "dali=True").log, True),
    "feature_save": lambda r: (kept_side(r)["path"], r.old / "saved/EX/a_feature.npy"),
    "scenario": lambda r: ("found OPclass; set it to None" in refusal(
        old_prototypes, r.first.trainer.cfg, r.first.trainer.plain_method.data, slice(7)), True),
    "old_model": lambda r: (kept_side(r)["model"], fingerprint(load_state(r.old / "model.pt"))),
    "old_feature": lambda r: ((kept(r, "old_feature"), kept(r, "labels")),
                              (checksum(r, "saved/EX/a_feature.npy"), checksum(r, "saved/EX/a_label.npy"))),
    "old_dim": lambda r: (len(kept_rows(r)[0]), 10),
    "credible": lambda r: (kept(r, "credible"), checksum(r, "saved/EX/a_mask.npy")),
    "prototypes": lambda r: (kept(r, "prototypes"), checksum(r, "saved/EX/a_mean.npy")),
    "old_classifier": lambda r: (kept(r, "old_classifier 0"), checksum(r, "softmax_fc_gpu_0.pt")),
}


def test_every_setting_has_a_check_at_a_value_that_is_not_its_default(runs):
    used = [runs.first.trainer.cfg, runs.second.trainer.cfg, runs.third.trainer.cfg, {"dali": True, "init": "none.pt"}]
    assert CHECKS.keys() == BASE.keys()
    assert [key for key, default in BASE.items() if all(cfg.get(key, default) == default for cfg in used)] == []


@pytest.mark.parametrize("key", CHECKS)
def test_a_setting_has_its_effect(key, runs):
    shown, expected = CHECKS[key](runs)
    assert shown == expected
