"""A training on two ranks is the same training on one: loader, mirror images, DDP, class shards, log, files."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from recorded import Noted, record, write_data
from torch.nn.parallel import DistributedDataParallel

from engine import distributed, loop
from engine.checkpoint import locked_output
from engine.distributed import Ranks
from engine.model_files import whole_classifier
from engine.prepare import prepare
from losses import PartialFC, SoftmaxHead
from utils.config import load_config
from utils.errors import UserError
from utils.locks import hold_folder

SOFTMAX = ["lr=0.1", "num_epoch=1", "val_targets=[]"]
SETTINGS = ["gradient_acc=2", "clip=0.3", "frequent=2", "save_every=2", "val_targets=['pairs']", "lr=0.1", "weight_decay=0.01"]


def of_this_rank(data: Path, output: Path) -> dict:
    """What one of two ranks, with four images a step each, recorded, and its weights at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "start_ranks", lambda timeout: Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu")))
        patch.setattr(dist, "destroy_process_group", lambda: None)          # the process group is the test's
        run = record(data, output, *SETTINGS, "batch_size=4", norm=False)
        softmax = weights(record(data, output / "softmax", *SOFTMAX, "clip=0.3", "batch_size=4", norm=False, head=SoftmaxHead))
    assert run.code == 0, run.log
    made, starts = run.trainer, run.trainer.plain_method.starts
    return result(run) | {"softmax": softmax} | {
        "wrapped": [isinstance(part, DistributedDataParallel) for part in (made.backbone, made.method)],
        "plain": [backbone is made.plain_backbone for _, backbone, *_ in starts], "seeds": [start[3] for start in starts],
        "log": run.log}


def weights(run) -> dict[str, torch.Tensor]:
    """All that has learnt, by name."""
    made = run.trainer
    parts = {"backbone": made.plain_backbone, "method": made.plain_method, "head": made.head}
    return {f"{part}.{name}": p.detach() for part, module in parts.items() for name, p in module.named_parameters()}


def result(run) -> dict:
    made = run.trainer
    return {"steps": [{name: step[name] for name in ("index", "labels", "flip", "clock", "lr", "update")} for step in run.steps],
            "events": run.events, "curves": {name: run.values(name) for name in ("loss", "terms/cls", "terms/pull", "lr",
                                                                                  "verification/pairs")},
            "weights": [p.detach() for p in (*made.plain_backbone.parameters(), *made.plain_method.parameters())],
            "head": made.head.weight.detach()}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def both(data, tmp_path_factory) -> tuple[dict, list[dict], Path]:
    """(one rank with eight images a step, each of two ranks with four, the folder of the outputs)."""
    folder = tmp_path_factory.mktemp("ranks")
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


def test_one_norm_clips_backbone_method_and_all_shards_of_a_softmax_head(both, data, tmp_path):
    """On two ranks as on one, whose update tests/engine/test_step.py computes by hand; and the norm is above its limit."""
    _, ranks, _ = both
    one, free = (weights(record(data, tmp_path / clip, *SOFTMAX, f"clip={clip}", norm=False, head=SoftmaxHead))
                 for clip in ("0.3", "1e9"))
    for name, expected in one.items():
        parts = [rank["softmax"][name] for rank in ranks]
        found = torch.cat(parts) if name.startswith("head.") else parts[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert (expected - free[name]).abs().max() > 1e-3
        assert name.startswith("head.") or torch.equal(*parts)


def refused(data: Path, output: Path) -> list[str]:
    """What a rank says if the ranks differ, and if another run holds the folder."""
    ranks, sentences = Ranks(dist.get_rank(), 2, torch.device("cpu")), []
    cfg = load_config(data / "toy.py", [f"dataset={data}", f"output={output}", "network=mbf", f"lr=0.{ranks.rank + 1}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "SECONDS_FOR_LOCK", 0.1)
        for begin in (lambda: prepare(cfg, ranks, Noted, PartialFC, None), lambda: locked_output(output, ranks).__enter__()):
            try:
                begin()
            except UserError as error:
                sentences.append(str(error))
    return sentences


def test_a_refusal_is_every_ranks(data, tmp_path):
    with hold_folder(tmp_path, "held", 0):
        found = on_ranks(2, refused, data, tmp_path)
    assert len(found[0]) == 2 and found[0] == found[1]
    assert found[0][0].startswith("the ranks differ in lr: 0.1 on rank 0, 0.2 on rank 1; start all of them")
    assert found[0][1].startswith(f"another training, or a process of a killed one, still writes to {tmp_path}; wait")


def test_a_method_gets_the_plain_backbone_and_random_numbers_of_its_own(both):
    _, ranks, _ = both
    assert all(rank["plain"] == [True, True] for rank in ranks)
    assert len({seed for rank in ranks for seed in rank["seeds"]}) == 4


def test_the_log_has_the_mean_over_the_ranks_and_is_written_by_rank_0(both):
    one, ranks, _ = both
    for name, values in one["curves"].items():
        assert [step for step, _ in ranks[0]["curves"][name]] == [step for step, _ in values]
        assert [value for _, value in ranks[0]["curves"][name]] == pytest.approx([value for _, value in values], rel=1e-4)
    assert "12 steps of 2 x 4 images" in ranks[0]["log"] and ranks[1]["log"] == ""


def threads_of_gloo() -> list[str]:
    return [name for file in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := file.read_text().strip())]


def threads_at_the_end(data: Path, output: Path) -> tuple[list[str], list[str]]:
    """Names of gloo's threads before a training leaves the process group, and at once after it."""
    rank, leave, found = dist.get_rank(), dist.destroy_process_group, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "start_ranks", lambda timeout: Ranks(rank, 2, torch.device("cpu")))
        patch.setattr(dist, "destroy_process_group", lambda: found.extend([threads_of_gloo(), leave(), threads_of_gloo()]))
        patch.setattr("sys.argv", ["train.py", str(data / "toy.py"), f"dataset={data}", f"output={output}", "network=cnn_s"])
        loop.main()
    before, _, after = found
    dist.init_process_group("gloo", store=dist.FileStore(str(output / "store"), 2), rank=rank, world_size=2)    # for on_ranks
    return before, after


def test_the_process_group_ends_where_the_training_leaves_it(data, tmp_path):
    """One that DDP keeps until later ends under Python's lock, and hangs once in fifty trainings."""
    for before, after in on_ranks(2, threads_at_the_end, data, tmp_path):
        assert before and after == [], f"threads before {before}, after {after}"
