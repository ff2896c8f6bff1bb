"""A training on two ranks is the same training on one: loader, mirror images, DDP, class shards, log, files."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from recorded import record, write_data
from torch.nn.parallel import DistributedDataParallel

from engine import loop
from engine.distributed import Ranks
from engine.model_files import whole_classifier

SETTINGS = ["gradient_acc=2", "clip=0.3", "frequent=2", "save_every=2", "val_targets=['pairs']", "lr=0.1", "weight_decay=0.01"]


def of_this_rank(data: Path, output: Path) -> dict:
    """What one of two ranks, with four images a step each, recorded, and its weights at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "start_ranks", lambda timeout: Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu")))
        patch.setattr(dist, "destroy_process_group", lambda: None)          # the process group is the test's
        run = record(data, output, *SETTINGS, "batch_size=4", norm=False)
    assert run.code == 0, run.log
    made, starts = run.trainer, run.trainer.plain_method.starts
    return result(run) | {
        "wrapped": [isinstance(part, DistributedDataParallel) for part in (made.backbone, made.method)],
        "plain": [backbone is made.plain_backbone for _, backbone, *_ in starts], "seeds": [start[3] for start in starts],
        "log": run.log}


def result(run) -> dict:
    made = run.trainer
    return {"steps": [{name: step[name] for name in ("index", "labels", "flip", "clock", "lr", "update")} for step in run.steps],
            "events": run.events, "curves": {name: run.values(name) for name in ("loss", "terms/cls", "terms/pull", "lr",
                                                                                  "verification/pairs")},
            "weights": [p.detach() for p in (*made.plain_backbone.parameters(), *made.plain_method.parameters())],
            "head": made.head.weight.detach()}


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[dict, list[dict], Path]:
    """(result of one rank with eight images a step, results of two ranks with four each, folder of the outputs)."""
    folder = tmp_path_factory.mktemp("ranks")
    data = write_data(folder)
    one = record(data, folder / "one", *SETTINGS, norm=False)
    assert one.code == 0, one.log
    return result(one), on_ranks(2, of_this_rank, data, folder / "two"), folder


def test_the_ranks_share_each_batch(both):
    """Rank 0 has the first half of each global batch, rank 1 the second, with labels and mirror marks."""
    one, ranks, _ = both
    assert len(one["steps"]) == len(ranks[0]["steps"]) == len(ranks[1]["steps"]) == 12
    for step, *halves in zip(one["steps"], ranks[0]["steps"], ranks[1]["steps"], strict=True):
        for name in ("index", "labels", "flip"):
            assert torch.equal(torch.cat([half[name] for half in halves]), step[name]), name
        for half in halves:
            assert all(half[name] == step[name] for name in ("clock", "lr", "update"))
    assert one["events"] == ranks[0]["events"] == ranks[1]["events"]


def test_the_weights_are_those_of_one_rank(both):
    """After six clipped updates of two steps: backbone and method's parameter on both ranks, class vectors by shard."""
    one, ranks, folder = both
    for rank in ranks:
        for found, expected in zip(rank["weights"], one["weights"], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert rank["wrapped"] == [True, True]
    assert [len(rank["head"]) for rank in ranks] == [3, 2]
    torch.testing.assert_close(torch.cat([rank["head"] for rank in ranks]), one["head"], rtol=1e-4, atol=1e-5)
    for name in ("one", "two"):
        saved = torch.load(folder / name / "model.pt", weights_only=True)
        assert saved.keys() == {"fc.weight", "fc.bias"}
        for found, expected in zip(saved.values(), one["weights"], strict=False):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, parts in (("one", [one]), ("two", ranks)):
        assert torch.equal(whole_classifier(folder / name)["weight"], torch.cat([part["head"] for part in parts]))


def test_start_epoch_gets_the_plain_backbone_and_each_rank_its_own_random_numbers(both):
    _, ranks, _ = both
    assert all(rank["plain"] == [True, True] for rank in ranks)
    assert len({seed for rank in ranks for seed in rank["seeds"]}) == 4


def test_the_log_has_the_mean_over_the_ranks_and_is_written_by_rank_0(both):
    one, ranks, _ = both
    for name, values in one["curves"].items():
        assert [step for step, _ in ranks[0]["curves"][name]] == [step for step, _ in values]
        assert [value for _, value in ranks[0]["curves"][name]] == pytest.approx([value for _, value in values], rel=1e-4)
    assert "12 steps of 2 x 4 images" in ranks[0]["log"] and ranks[1]["log"] == ""
