"""Steps that need each other, what a reproduction will take, and a whole one on toy data, killed and taken up again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from toy import write_ijb, write_records

from tools.reproduce import plan, reproduce
from tools.reproduce.plan import Training, check_inputs, image_count, plan_rows, print_plan
from tools.reproduce.reproduce import Recipe, split_setting
from tools.reproduce.steps import Step, run_steps
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["network=mbf", "image_size=16", "batch_size=4", "num_epoch=1", "workers=0", "val_targets=[]"]


# --- steps -----------------------------------------------------------------------------------------------

@pytest.fixture
def shell(tmp_path):
    """Makes steps that append their name to a file; run() runs them and returns the names in their order."""
    class Shell:
        out, journal = tmp_path / "out", tmp_path / "journal"

        def step(self, name: str, *needs: str, then="true", **more) -> Step:
            return Step(name, ["bash", "-c", f'echo "{name} $1" >> {self.journal}; {then}', "bash"], needs, tmp_path, **more)

        def run(self, *steps: Step, cores=2) -> list[str]:
            self.journal.write_text("")
            try:
                run_steps(list(steps), self.out, 0, cores)
            finally:
                self.lines = self.journal.read_text().splitlines()
            return [line.split()[0] for line in self.lines]
    return Shell()


def test_steps_run_after_what_they_need_and_only_once(shell):
    steps = [shell.step("page", "new", "old", again=True), shell.step("new", "old", then="sleep 0.1"),
             shell.step("old", "elsewhere")]
    assert shell.run(*steps) == ["old", "new", "page"]
    assert shell.run(*steps) == ["page"]
    changed = shell.step("old", then="true ")                   # another command: it and what stands on it run again
    assert shell.run(steps[0], steps[1], changed) == ["old", "new", "page"]


def test_a_result_that_is_gone_is_made_again(shell):
    step = shell.step("features", then=f"touch {shell.out}/features.npy", makes=shell.out / "features.npy")
    assert shell.run(step) == ["features"] and shell.run(step) == []
    step.makes.unlink()
    assert shell.run(step) == ["features"]


def test_a_failure_names_its_log_and_the_next_start_goes_on(shell):
    steps = [shell.step("good"), shell.step("bad", "good", then="echo torn; test -e fixed"), shell.step("last", "bad")]
    with pytest.raises(UserError, match="bad failed .exit code 1.; its output is in .*/log/bad.log"):
        shell.run(*steps)
    assert [line.split()[0] for line in shell.lines] == ["good", "bad"]
    assert "torn" in (shell.out / "log/bad.log").read_text()
    (steps[0].folder / "fixed").touch()
    assert shell.run(*steps) == ["bad", "last"]


def test_a_training_goes_on_from_its_checkpoint_and_keeps_its_settings(shell):
    training = shell.step("BCT", then="test -e fixed", makes=shell.out / "BCT/model.pt", trains=True)
    for existing, resumed in ((False, "BCT"), (True, "BCT resume=True")):
        if existing:
            training.checkpoint.parent.mkdir()
            training.checkpoint.touch()
        with pytest.raises(UserError):
            shell.run(training)
        assert shell.lines[0].strip() == resumed
    other = shell.step("BCT", then="test -e  fixed", makes=training.makes, trains=True)
    with pytest.raises(UserError, match=r"BCT was trained with other settings \(differing: .*another --out"):
        shell.run(other)
    shutil.rmtree(training.checkpoint.parent)
    with pytest.raises(UserError, match="failed"):
        shell.run(other)
    assert shell.lines == ["BCT "]


def test_a_training_on_new_features_begins_anew(shell):
    """Its checkpoint was trained on the former ones."""
    training = shell.step("new", "old", then="false", makes=shell.out / "new/model.pt", trains=True)
    training.checkpoint.parent.mkdir(parents=True)
    training.checkpoint.touch()
    for old, resumed in (("1", ""), ("1", "resume=True"), ("2", "")):
        with pytest.raises(UserError):
            shell.run(shell.step("old", then=f": {old}"), training)
        assert shell.lines[-1] == f"new {resumed}"


# --- plan ------------------------------------------------------------------------------------------------

@pytest.fixture
def data(tmp_path) -> Path:
    write_records(tmp_path / "records/train", [4, 5, 3, 4, 6, 2, 4, 3, 5, 4])
    write_ijb(tmp_path / "ijb")
    image_count.cache_clear()
    return tmp_path


def training(data: Path, *settings: str, config="configs/f128_r18_softmax_class30.py") -> Training:
    return Training("old", "train_old_softmax.py", config, (f"dataset={data / 'records'}", *SMALL, *settings))


def test_steps_and_images_of_a_plan(data):
    (_, network, images, epochs, steps, size), = plan_rows([training(data, "num_epoch=3")], data / "records", ranks=2)
    assert (network, images, epochs, steps) == ("mbf", 12, 3, 3)        # 30 % of 40 until it is split; 12 // 8 x 3
    assert 0 < size < 0.1
    write_records(data / "records/train_part_30_class", [4, 5, 3, 8])
    image_count.cache_clear()
    assert plan_rows([training(data)], data / "records", ranks=1)[0][2:5] == (20, 1, 5)


def test_everything_that_is_missing_is_said_at_once(data):
    (data / "ijb/IJBC/loose_crop/7.jpg").unlink()
    (data / "records/train.idx").unlink()
    wrong = [training(data, "batchsize=4"), training(data, "network=r19")]
    problems = check_inputs(wrong, data / "records", data / "ijb", "IJBC")
    assert len(problems) == 4
    for part in ("train.idx", "did you mean config.batch_size", "r19", "7.jpg"):
        assert any(part in problem for problem in problems), part


def test_a_full_disk_is_said_before_the_start(data, monkeypatch, capsys):
    arguments = ([training(data)], data / "records", data / "ijb", "IJBC", data / "not/yet/there", 1)
    assert print_plan(*arguments) == [] and "12 trained" in capsys.readouterr().out
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(1000))
    assert "0.0 GB free" in print_plan(*arguments)[0] and "another --out" in print_plan(*arguments)[0]


# --- recipe ----------------------------------------------------------------------------------------------

def recipe(monkeypatch, *words: str) -> Recipe:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    return Recipe(reproduce.parse_arguments())


def test_settings_reach_the_trainings_that_they_are_for(monkeypatch):
    found = recipe(monkeypatch, "OPdata", "--methods", "BCT,soft=BCT,weakenedL2", "lr=0.3", "new:lr=0.2", "soft:bct_scale=1",
                   "old:dataset=a:b")
    settings = {t.name: [s for s in t.settings if s.startswith(("lr", "bct", "dataset=a"))] for t in found.trainings}
    assert settings == {"old": ["lr=0.3", "dataset=a:b"], "paragon": ["lr=0.3", "lr=0.2"], "BCT": ["lr=0.3", "lr=0.2"],
                        "soft": ["lr=0.3", "lr=0.2", "bct_scale=1"], "weakenedL2": ["lr=0.3", "lr=0.2"]}
    by_name = {t.name: t for t in found.trainings}
    assert by_name["soft"].config == "BCT_Methods/BCT/configs/OPdata_ms1mv3_r18_to_r50_BCT_arc_to_arc_f512.py"
    assert by_name["weakenedL2"].script == "BCT_Methods/L2/train.py" and "rec=train_part_70_data" in by_name["paragon"].settings
    assert (by_name["old"].config, by_name["old"].script) == ("configs/f512_r18_arc_data30.py", "train_old_arc.py")
    assert found.sd == "f512_r18_arc_data70" and found.paragon_sd == "f512_r50_arc_data70"
    assert split_setting("a:b=c:d") == ("a", "b=c:d")


@pytest.mark.parametrize("words, sentence", [
    (["OPclass", "bct:lr=1"], "settings for bct: expected new or one of old, paragon, MixBCT"),
    (["OPclass", "lr"], "expected KEY=VALUE or NAME:KEY=VALUE, found 'lr'"),
    (["OPdata", "--family", "softmax_to_arc_f128"], "no config .*OPdata_ms1mv3_r18_to_r50_MixBCT_softmax_to_arc_f128.py"),
    (["OPclass", "--methods", "Mix"], "no config .*_Mix_")])
def test_words_that_mean_nothing_are_refused(monkeypatch, words, sentence):
    with pytest.raises(UserError, match=sentence):
        recipe(monkeypatch, *words)


# --- the whole -------------------------------------------------------------------------------------------

def command(data: Path, *more: str) -> list:
    return [sys.executable, ROOT / "tools/reproduce/reproduce.py", "OPclass", "--family", "softmax_to_arc_f128", "--methods",
            "L2,MixBCT", "--records", data / "records", "--ijb", data / "ijb", "--out", data / "out", *SMALL, *more]


def test_a_reproduction_that_was_killed_goes_on(data):
    dry = subprocess.run(command(data, "--dry-run"), capture_output=True, text=True)
    assert dry.returncode == 0 and dry.stdout.count("train.py") == 2 and not (data / "out").exists(), dry.stderr
    whole = command(data, "L2:num_epoch=400")
    process = subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (data / "out/L2/checkpoint_gpu_0.pt").is_file():
        assert process.poll() is None and time.monotonic() < deadline, "L2 left no checkpoint"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = json.loads((data / "out/steps/old.json").read_text())["done"]
    for file in (data / "out/steps/L2.json", data / "out/log/L2.log"):       # no need to wait for all 400 epochs
        file.write_text(file.read_text().replace("num_epoch=400", "num_epoch=2"))
    done = subprocess.run(command(data, "L2:num_epoch=2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert json.loads((data / "out/steps/old.json").read_text())["done"] == before
    assert "resume=True" in (data / "out/log/L2.log").read_text() and "== old: done before" in done.stdout
    assert (data / "out/compare/index.html").is_file() and "paragon+Procrustes" in done.stdout
    again = subprocess.run(command(data, "L2:num_epoch=2"), capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.count("done before") == 8 and "== compare: 0 s" in again.stdout
