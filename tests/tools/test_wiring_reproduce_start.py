"""The start of a reproduction: the dry run, the launcher, what the plan adds up, and which inputs are refused."""

import json
import re
import shlex
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from reproduction_toys import SMALL, recipe
from toy import write_ijb, write_records

from engine import cost
from evaluation.protocol import read_images
from records.faces import FaceRecords
from records.split import split
from tools.reproduce import plan, reproduce
from tools.reproduce.plan import parts_exist, print_plan
from tools.reproduce.reproduce import all_steps
from tools.reproduce.steps import Step, on_data
from utils.errors import UserError


@pytest.fixture
def data(tmp_path) -> Path:
    write_records(tmp_path / "records/train", [4, 5, 3, 4, 6, 2, 4, 3, 5, 4])
    write_ijb(tmp_path / "ijb")
    return tmp_path


def words(data: Path, *more: str) -> list:
    return ["OPclass", "--family", "softmax_to_arc_f128", "--methods", "L2", "--records", data / "records", "--ijb", data / "ijb",
            "--out", data / "out", *SMALL, *more]


@pytest.fixture
def start(data, monkeypatch):
    """Runs the command line with pretended hardware; gives (steps, out, gpus, cores) of what it would run, or None."""
    def call(gpus: int, *more: str):
        started = []
        monkeypatch.setattr(reproduce, "hardware", lambda: (gpus, 16))
        monkeypatch.setattr(reproduce, "run_steps", lambda *arguments: started.append(arguments))
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, words(data, *more))])
        reproduce.main()
        return started[0] if started else None
    return call


def test_a_dry_run_starts_nothing_and_a_real_one_starts_the_same_commands(start, data, capsys):
    assert start(0, "--dry-run") is None and not (data / "out").exists()
    shown = capsys.readouterr().out
    assert "1 x 4 images a step" in shown
    steps, out, gpus, cores = start(0)
    assert (out, gpus, cores) == (data / "out", 0, 16) and len(steps) == 9
    for step in steps:
        assert shlex.join(step.command) in shown and "torch.distributed.launch" not in step.command
    assert len(start(0, "--seeds", "2")[0]) == 9 + 7 + 1        # no second split and page; one of the first seed alone
    assert "together, 2 seeds" in capsys.readouterr().out


def test_on_gpus_trainings_and_features_are_launched_with_one_process_each(start, capsys):
    steps, _, gpus, _ = start(2)
    assert gpus == 2
    for step in steps:
        launched = step.command[1:4] == ["-m", "torch.distributed.launch", "--nproc_per_node=2"]
        assert launched == (step.trains or step.name.endswith("_features")), step.name
    assert "2 x 4 images a step" in capsys.readouterr().out


def test_a_run_with_other_settings_is_refused_by_the_dry_run_already(start, data, monkeypatch):
    steps = all_steps([recipe(monkeypatch, *words(data))], [sys.executable])
    (data / "out/L2/checkpoints/7").mkdir(parents=True)
    (data / "out/L2/checkpoints/7/complete.json").touch()
    (data / "out/steps").mkdir()
    step = next(step for step in steps if step.name == "L2")
    fingerprint = FaceRecords(data / "records/train").fingerprint()
    record = {"command": [*step.command, "lr=9"], "data": fingerprint}
    (data / "out/steps/L2.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="L2 was trained with other settings .then: lr=9"):
        start(0, "--dry-run")
    (data / "out/steps/L2.json").write_text(json.dumps(record | {"command": step.command}))
    start(0, "--dry-run")
    assert {step.data for step in start(0)[0] if step.name != "first"} == {fingerprint}
    write_records(data / "records/train", [4, 5, 3, 4, 6, 2, 4, 3, 4, 5])
    with pytest.raises(UserError, match="out/L2 was trained on another train.rec than today's"):
        start(0, "--dry-run")


def test_the_first_page_is_made_again_of_another_evaluation_set(start, data):
    pages = []
    for subjects in (6, 8):
        shutil.rmtree(data / "ijb")
        write_ijb(data / "ijb", subjects)
        pages.append({step.name: step.data for step in start(0, "--seeds", "2")[0]})
    assert [name for name in pages[0] if pages[0][name] != pages[1][name]] == ["first"]


def test_the_first_page_is_made_again_of_other_embeddings_of_the_old_model(data):
    steps, found = [Step("first", []), Step("L2", [])], set()
    images, file = read_images(data / "ijb", "IJBC"), data / "eval.npy"
    for embeddings in (b"", b"one", b"two"):
        file.write_bytes(embeddings)
        first, other = on_data(steps, data / "records", images, file if embeddings else None)
        found.add(first.data)
        assert other.data == FaceRecords(data / "records/train").fingerprint()
    assert len(found) == 3


def test_records_are_split_again_if_a_part_is_gone(start, data):
    """Also if the split was done before: its step makes the first part that is missing."""
    split(data / "records/train.rec", 0.3, data / "records")
    assert "split" not in [step.name for step in start(0)[0]]
    for end in (".rec", ".idx", ".json"):
        (data / f"records/train_part_70_class{end}").unlink()
    step = start(0)[0][0]
    assert step.name == "split" and step.makes == data / "records/train_part_70_class.rec"


# --- the plan ----------------------------------------------------------------------------------------------

def test_what_a_plan_adds_up(data, monkeypatch, capsys):
    """Old model: 12 of 40 images, 15 epochs; the others: 28 images, one epoch; 36 images are embedded by three models."""
    trainings = recipe(monkeypatch, *words(data, "old:num_epoch=15")).trainings
    written = {}
    monkeypatch.setattr(plan, "disk_problems", lambda by_folder: written.update(by_folder) or [])
    plan.image_count.cache_clear()
    assert print_plan(trainings, data / "records", data / "ijb", "IJBC", data / "out", 2) == []
    rows = {cells[1].strip(): [c.strip() for c in cells[2:-1]] for line in capsys.readouterr().out.splitlines()
            if len(cells := line.split("|")) > 3}
    assert rows["old"][:4] == ["mbf", "12", "15", "15"] and rows["L2"][:4] == rows["paragon"][:4] == ["mbf", "28", "1", "3"]
    assert rows["features of old model and paragon"][1] == "28" and rows["embeddings of IJBC, both views"][1] == "36"
    assert rows["together"][1] == f"{12 * 15 + 2 * 28} trained, {2 * 28 + 2 * 36 * 3} embedded" and rows["together"][3] == "21"
    files = sum(cost.training_bytes(training.load(), 10, 2)[0] for training in trainings)
    arrays = 2 * 28 * 128 * 4 + 3 * 36 * 2 * 128 * 4            # float32: features of two models, two views by three models
    assert written[data / "out"] == pytest.approx(1e-9 * (files + arrays), rel=1e-9)
    assert written[data / "records"] == pytest.approx(2e-9 * (data / "records/train.rec").stat().st_size)
    for folder, size in (("L2", 3000), ("seed_3/feature_save", 400), ("seed_4/L2", 9)):         # of seed 4 there is no run
        (data / "out" / folder).mkdir(parents=True)
        (data / "out" / folder / "file").write_bytes(bytes(size))
    assert print_plan(trainings, data / "records", data / "ijb", "IJBC", data / "out", 2, 3) == []
    assert re.search(r"together, 3 seeds +\|[ |]+708 trained, 816 embedded [ |]+63 ", capsys.readouterr().out)
    assert written[data / "out"] == pytest.approx(3e-9 * (files + arrays) - 3.4e-6, rel=1e-9)


def test_records_are_split_unless_all_four_parts_are_there(data):
    for part in ("30_class", "70_class", "30_data", "70_data"):
        assert not parts_exist(data / "records")
        (data / f"records/train_part_{part}.rec").touch()
    assert parts_exist(data / "records")


def test_a_network_that_cannot_be_built_is_a_problem_before_the_start(data, monkeypatch):
    def refuse(cfg, device):
        raise UserError("expected another network")
    monkeypatch.setattr(plan, "new_backbone", refuse)
    trainings = recipe(monkeypatch, *words(data)).trainings
    assert plan.check_inputs(trainings, data / "records", data / "ijb", "IJBC") == ["expected another network"]


def test_parts_of_another_train_rec_are_a_problem_before_the_start(data, monkeypatch):
    split(data / "records/train.rec", 0.3, data / "records")
    trainings = recipe(monkeypatch, *words(data)).trainings
    assert plan.check_inputs(trainings, data / "records", data / "ijb", "IJBC") == []
    write_records(data / "records/train", [4, 5, 3, 4, 6, 2, 4, 3, 5, 5])
    problem, = plan.check_inputs(trainings, data / "records", data / "ijb", "IJBC")
    assert problem.count("train_part_") == 4 and "were split from another train.rec" in problem
    assert "(40 images then, 41 now)" in problem


def test_a_disk_needs_a_fifth_more_than_will_be_written(tmp_path, monkeypatch):
    for free, problems in ((12 * 10**9, 0), (12 * 10**9 - 1, 1)):
        monkeypatch.setattr(cost.shutil, "disk_usage", lambda _, free=free: namedtuple("usage", "free")(free))
        assert len(plan.disk_problems({tmp_path: 10.0})) == problems        # GB
