"""Trainings that are killed again and again, at random steps and in the middle of a save, equal the straight run bit for bit."""

import random
from pathlib import Path

import pytest
import torch
from method_toys import VARIANTS
from toy_scenarios import config, write_scenarios
from trainings import differences, join, newest_files, start

pytestmark = pytest.mark.long
MORE = {"UniBCT": ["refine_epoch=[0, 1, 2]"], "NCCL": ["queue_size=16", "credible_only=True"]}
MOMENTS = {"step": 6, "write": 120, "rename": 3, "renamed": 3}       # {moment: largest n}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return write_scenarios(tmp_path_factory.mktemp("scenarios"))


def arguments(name: str, place: Path, output: Path, ranks: int) -> list[str]:
    return [config(name, "OPclass"), f"dataset={place}/data", f"feature_save={place}/feature_save", f"output={output}",
            "network=mbf", "image_size=16", f"batch_size={max(4 // ranks, 2)}", f"deterministic={ranks > 2}", "num_epoch=3",
            "workers=0", "val_targets=[]", "frequent=2", "lr=0.01", "dropout=0.2", "save_every=2", "resume=True",
            *MORE.get(name, [])]


def same(first: Path, second: Path) -> None:
    files = newest_files(first)
    assert files[0].parent.name == newest_files(second)[0].parent.name
    for one, two in zip(files, newest_files(second), strict=True):
        assert differences(*(torch.load(path, weights_only=True) for path in (one, two))) == []
    models = [torch.load(folder / "model.pt", weights_only=True) for folder in (first, second)]
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())


def train_with_kills(name: str, place: Path, folder: Path, ranks: int, kills: list[tuple[str, int]], seed: int) -> int:
    """Kill and resume a training; its result must equal the straight run's.

    kills: (moment, n) of each.  Returns how many of them struck: the training may end before the n-th time.
    """
    method = f"BCT_Methods.{VARIANTS[name].__name__}.train:{VARIANTS[name].__name__}"
    straight, broken = (arguments(name, place, folder / kind, ranks) for kind in ("straight", "broken"))
    assert join(start(straight, method, ranks)) == [0] * ranks
    struck, draw = 0, random.Random(seed)
    for moment, n in kills:
        victim = draw.randrange(ranks)
        codes = join(start(broken, method, ranks, (victim, moment, n)))
        struck += codes[victim] == -9
        assert codes == [0] * ranks or codes[victim] == -9 and all(code in (-9, 1) for code in codes), codes
    assert join(start(broken, method, ranks)) == [0] * ranks
    same(folder / "straight", folder / "broken")
    return struck


def test_three_kills(place, tmp_path):
    """At a step inside an epoch, in the middle of a file, and between a file and complete.json."""
    assert train_with_kills("UniBCT", place, tmp_path, 1, [("step", 5), ("write", 30), ("rename", 2)], 0) == 3


@pytest.mark.slow
@pytest.mark.parametrize("ranks, name, kills", [(1, name, 4) for name in VARIANTS] + [
    (2, name, 3) for name in ("MixBCT", "UniBCT", "NCCL", "AdvBCT")] + [(3, "L2", 2)])
def test_random_kills(ranks, name, kills, place, tmp_path):
    draw = random.Random(f"{name} {ranks}")
    chosen = [(moment, draw.randint(1, most)) for moment, most in draw.choices(list(MOMENTS.items()), k=kills)]
    struck = train_with_kills(name, place, tmp_path, ranks, chosen, ranks)
    print(f"{name} on {ranks}: {struck} of {kills} kills struck: {chosen}")
    assert struck > 0
