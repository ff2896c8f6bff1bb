"""A checkpoint of two ranks resumed on one, and of one on two: every tensor, the steps after it, the exported classifier."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from method_steps import make_method_for_ranks, train
from method_toys import BATCH, CLASSES, DIM, make_backbone, make_head, write_old_side
from ranks import on_ranks
from trainings import differences

from engine.checkpoint import Checkpoints
from engine.checkpoint_files import Position
from engine.distributed import Ranks
from engine.model_files import classifier_in_checkpoint, whole_classifier
from engine.signals import StopSignal
from engine.state import own_shard, rank_state
from engine.trainer import Trainer
from losses import ArcFace, PartialFC, SoftmaxHead
from records.facts import Facts
from tools.export_classifier.export_classifier import main
from utils.errors import UserError

LR = 0.01
# kind: (method, settings, head)
KINDS = {"BCT": ("BCT", {}, make_head), "NCCL": ("NCCL", {}, make_head), "UniBCT": ("UniBCT", {}, make_head),
         "AdvBCT": ("AdvBCT", {}, make_head), "AdamW": ("BCT", {"optimizer": "adamw"}, make_head),
         "view": ("MixBCT", {"embedding_size": 4, "old_dim": DIM}, lambda: with_view(make_head(dim=4))),
         "softmax": ("L2", {}, lambda: SoftmaxHead(None, DIM, CLASSES)),
         "sampled": ("L2", {}, lambda: PartialFC(ArcFace(8.0), DIM, CLASSES, sample_rate=0.8)),
         "sampled AdamW": ("L2", {"optimizer": "adamw"}, lambda: PartialFC(ArcFace(8.0), DIM, CLASSES, sample_rate=0.8))}


def with_view(head: PartialFC) -> PartialFC:
    head.views = {DIM: make_head(8)}
    return head


SHARDED = {"head/weight": 0, "head/bias": 0, "method/influence.prototypes": 0, "method/queue.logits": 1,
           f"head_{DIM}/weight": 0, f"optimizer/head_{DIM}/weight/momentum_buffer": 0,
           **{f"optimizer/head/{name}/{moment}": 0 for name in ("weight", "bias")
              for moment in ("momentum_buffer", "exp_avg", "exp_avg_sq")},
           **{f"head/sampler.{moment}": 0 for moment in ("momentum_buffer", "exp_avg", "exp_avg_sq")}}


@pytest.fixture(scope="module")
def old_side(tmp_path_factory) -> Path:
    return write_old_side(tmp_path_factory.mktemp("feature_save"))


def make(kind: str, features: Path, output: Path) -> Checkpoints:
    """A training of this kind before its first step; the ranks' random states differ."""
    name, more, head = KINDS[kind]
    method, cfg = make_method_for_ranks(name, features, output=str(output / kind), resume=True, **more)
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    backbone = make_backbone(dim=cfg.embedding_size)            # without BatchNorm: each rank has its own statistics
    trainer = Trainer(cfg, ranks, backbone, method, head())
    torch.manual_seed(dist.get_rank())
    log = SimpleNamespace(info=lambda *_: None)
    return Checkpoints(cfg, Facts(100, 5), ranks, trainer, {}, StopSignal(), log)


def save_all(features: Path, output: Path) -> dict[str, dict]:
    """Two steps, a save, and then two more: {kind: rank_state at the end}."""
    out = {}
    for kind in KINDS:
        checkpoints = make(kind, features, output)
        train(checkpoints.trainer, range(2), LR)
        checkpoints.save(Position(0, 2 * BATCH))
        train(checkpoints.trainer, range(2, 4), LR)
        out[kind] = rank_state(checkpoints.trainer)
    return out


def resume_all(features: Path, output: Path) -> dict[str, tuple[dict, dict]]:
    """{kind: (rank_state after the resumption, rank_state two steps later)}"""
    out = {}
    for kind in KINDS:
        checkpoints = make(kind, features, output)
        for value in checkpoints.trainer.method.state_dict().values():
            value.zero_()                   # prototypes that a start computes must come from the checkpoint, too
        assert checkpoints.resume() == Position(0, 2 * BATCH)
        state = rank_state(checkpoints.trainer)
        before = state | {"tensors": {key: value.clone() for key, value in state["tensors"].items()}}
        train(checkpoints.trainer, range(2, 4), LR)
        out[kind] = before, rank_state(checkpoints.trainer)
    return out


def rank_file(output: Path, kind: str, rank: int) -> dict:
    return torch.load(output / kind / f"checkpoints/{2 * BATCH}/rank_{rank}.pt", weights_only=True)


def save_and_resume(features: Path, output: Path) -> tuple[dict, dict]:
    return save_all(features, output), resume_all(features, output)


@pytest.fixture(scope="module")
def saved(old_side, tmp_path_factory) -> tuple[Path, list[tuple[dict, dict]]]:
    """(output folder, [(save_all, resume_all) of rank 0, of rank 1])."""
    output = tmp_path_factory.mktemp("two")
    return output, on_ranks(2, save_and_resume, old_side, output)


def divide(tensors: dict, ranks: int) -> list[dict]:
    """The same tensors as each of ``ranks`` has them: the first 7 % ranks hold one class more."""
    return [{key: np.array_split(value.numpy(), ranks, SHARDED[key])[r] if key in SHARDED else value.numpy()
             for key, value in tensors.items()} for r in range(ranks)]


def equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, value in found.items():
        np.testing.assert_array_equal(value.numpy(), expected[key], key)


def close(found: dict, expected: dict, kind: str) -> None:
    """Compare the weights after two more steps, except those of a sampled head: its sample depends on the number of ranks."""
    for key, value in expected.items():
        if not kind.startswith("sampled") and not key.startswith("optimizer"):
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def together(ranks: list[dict]) -> dict:
    return {key: torch.cat([rank[key] for rank in ranks], SHARDED[key]) if key in SHARDED else value
            for key, value in ranks[0].items()}


def test_two_ranks_on_one(saved, old_side, one_rank):
    output, ranks = saved
    for kind, (before, after) in resume_all(old_side, output).items():
        files = [rank_file(output, kind, rank)["tensors"] for rank in range(2)]
        assert [len(file["head/weight"]) for file in files] == [4, 3]
        equal(before["tensors"], {key: value.numpy() for key, value in together(files).items()})
        close(after["tensors"], together([straight[kind]["tensors"] for straight, _ in ranks]), kind)


def test_one_rank_on_two(old_side, one_rank, tmp_path):
    later = save_all(old_side, tmp_path)
    resumed = on_ranks(2, resume_all, old_side, tmp_path)
    for kind in KINDS:
        whole = rank_file(tmp_path, kind, 0)
        for rank, expected in enumerate(divide(whole["tensors"], 2)):
            before = resumed[rank][kind][0]
            equal(before["tensors"], expected)
            assert torch.equal(before["random"]["cpu"], whole["random"]["cpu"])
        close(together([rank[kind][1]["tensors"] for rank in resumed]), later[kind]["tensors"], kind)


def test_the_same_number_of_ranks_gives_the_same_bits(saved):
    output, ranks = saved
    for rank, (straight, resumed) in enumerate(ranks):
        for kind, (before, after) in resumed.items():
            assert differences(before, rank_file(output, kind, rank)) == [], kind
            assert differences(after, straight[kind]) == [], kind


@pytest.mark.parametrize("dim", [0, 1])
def test_any_number_of_shards(dim, monkeypatch):
    whole = torch.arange(46).reshape((23, 2) if dim == 0 else (2, 23))
    for before in (1, 2, 3, 8):
        parts = [torch.from_numpy(part) for part in np.array_split(whole.numpy(), before, dim)]
        for ranks in (1, 2, 3, 5, 8):
            monkeypatch.setattr(dist, "get_world_size", lambda ranks=ranks: ranks)
            found = []
            for rank in range(ranks):
                monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
                found.append(own_shard(parts, dim))
            assert all(torch.equal(a, torch.from_numpy(b)) for a, b in
                       zip(found, np.array_split(whole.numpy(), ranks, dim), strict=True))


def test_the_class_vectors_of_a_view_in_a_checkpoint(saved, tmp_path, monkeypatch):
    folder = saved[0] / "view/checkpoints" / str(2 * BATCH)
    parts = [rank_file(saved[0], "view", rank)["tensors"] for rank in range(2)]
    file = tmp_path / "view.npy"
    monkeypatch.setattr(sys, "argv", ["export_classifier.py", "-f", str(folder), "-o", str(file), "--view", str(DIM)])
    main()
    assert np.array_equal(np.load(file), torch.cat([part[f"head_{DIM}/weight"] for part in parts]).numpy())
    for flags, words in ((["-f", folder, "--view", "5"], "has no head of a view of 5 dimensions"),
                         (["-f", tmp_path, "--view", "6"], f"for a training give -f {tmp_path}/view_6")):
        monkeypatch.setattr(sys, "argv", ["export_classifier.py", *map(str, flags), "-o", str(file)])
        with pytest.raises(UserError, match=words):
            main()


def test_the_whole_classifier(saved, tmp_path, monkeypatch, capsys):
    folder = saved[0] / "softmax/checkpoints" / str(2 * BATCH)
    parts = [rank_file(saved[0], "softmax", rank)["tensors"] for rank in range(2)]
    whole = classifier_in_checkpoint(folder)
    assert torch.equal(whole["weight"], torch.cat([part["head/weight"] for part in parts])) and len(whole["bias"]) == CLASSES
    for rank, part in enumerate(parts):
        torch.save({"weight": part["head/weight"], "num_classes": CLASSES}, tmp_path / f"softmax_fc_gpu_{rank}.pt")
    monkeypatch.setattr(sys, "argv", ["export_classifier.py", "-f", str(tmp_path), "-o", str(tmp_path / "classes.npy")])
    main()
    assert np.array_equal(np.load(tmp_path / "classes.npy"), whole["weight"].numpy())
    assert f"{CLASSES} classes of {DIM} dimensions" in capsys.readouterr().out
    shutil.copytree(folder, tmp_path / "best")              # under another name
    assert torch.equal(classifier_in_checkpoint(tmp_path / "best")["bias"], whole["bias"])
    (tmp_path / "softmax_fc_gpu_0_old.pt").write_bytes(b"of a user")
    assert len(whole_classifier(tmp_path)["weight"]) == CLASSES
    for wrong in ({"class_start": 0}, {"num_classes": 99}, {"weight": torch.ones(3, DIM + 1)}):
        torch.save({"weight": parts[1]["head/weight"], "class_start": 4, "num_classes": CLASSES} | wrong,
                   tmp_path / "softmax_fc_gpu_1.pt")
        with pytest.raises(UserError, match="softmax_fc_gpu_1.pt is a shard of another training"):
            main()
    (tmp_path / "softmax_fc_gpu_1.pt").unlink()
    with pytest.raises(UserError, match="1 shards in .* hold 4 classes, expected 7; copy all shards"):
        main()
    (tmp_path / "softmax_fc_gpu_0.pt").write_bytes(b"corrupt")
    with pytest.raises(UserError, match="is not a classifier shard"):
        main()
    with pytest.raises(UserError, match="no softmax_fc_gpu"):
        whole_classifier(tmp_path / "nowhere")


def test_the_classifier_of_a_corrupt_checkpoint_is_refused(saved, tmp_path):
    shutil.copytree(saved[0] / "softmax/checkpoints" / str(2 * BATCH), tmp_path / "copy")
    file = tmp_path / "copy/rank_1.pt"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="rank_1.pt is not the file that was written .*; export another checkpoint"):
        classifier_in_checkpoint(tmp_path / "copy")
    (tmp_path / "copy/complete.json").unlink()
    with pytest.raises(UserError, match="complete.json is corrupt or was not written by this project; export another checkpoint"):
        classifier_in_checkpoint(tmp_path / "copy")
