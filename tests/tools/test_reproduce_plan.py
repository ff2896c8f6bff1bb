"""A reproduction: what it will cost, which settings reach which training, and one on toy data, killed and started again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from reproduction_toys import SMALL, recipe, reproduce_here
from toy import write_ijb, write_records

from backbones import get_model
from records.recordio import MAGIC_BYTES
from tools.reproduce import plan, reproduce
from tools.reproduce.plan import Training, check_inputs, image_count, plan_rows, print_plan
from tools.reproduce.reproduce import split_setting
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path) -> Path:
    write_records(tmp_path / "records/train", [4, 5, 3, 4, 6, 2, 4, 3, 5, 4])
    write_ijb(tmp_path / "ijb")
    return tmp_path


def training(data: Path, *settings: str, config="configs/f128_r18_softmax_class30.py") -> Training:
    return Training("old", "train_old_softmax.py", config, (f"dataset={data / 'records'}", *SMALL, *settings))


def test_steps_and_images_of_a_plan(data):
    (_, network, images, epochs, steps, size), = plan_rows([training(data, "num_epoch=3")], data / "records", ranks=2)
    assert (network, images, epochs, steps) == ("mbf", 12, 3, 3)        # 30 % of 40 until it is split; 12 // 8 x 3
    backbone = 4e-9 * sum(p.numel() for p in get_model("mbf", num_features=128, image_size=16).parameters())
    assert size == pytest.approx(9 * backbone + 5 * 4e-9 * 10 * 128)    # model.pt; weights and momentum of two ranks, twice
    write_records(data / "records/train_part_30_class", [4, 5, 3, 8])
    image_count.cache_clear()
    assert plan_rows([training(data)], data / "records", ranks=1)[0][2:5] == (20, 1, 5)


def test_the_inputs_are_all_checked_whatever_is_wrong_first(data):
    (data / "ijb/IJBC/loose_crop/7.jpg").unlink()
    (data / "records/train.idx").unlink()
    wrong = [training(data, "batchsize=4"), training(data, "network=r19"), training(data), training(data, "dali=True")]
    problems = check_inputs(wrong, data / "records", data / "ijb", "IJBC")
    assert len(problems) == 5
    for part in ("train.idx", "did you mean config.batch_size", "r19", "7.jpg", "config.dali"):
        assert any(part in problem for problem in problems), part


def test_a_full_disk_is_reported_before_the_start(data, monkeypatch, capsys):
    arguments = ([training(data)], data / "records", data / "ijb", "IJBC", data / "not/yet/there", 1)
    assert print_plan(*arguments) == [] and "12 trained" in capsys.readouterr().out
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(20_000_000))
    problem, = print_plan(*arguments)
    assert re.search("has 0.02 GB free, about 0.02 GB will be written.*another --out", problem)
    (data / "not/yet/there/old/checkpoints/12").mkdir(parents=True)
    with open(data / "not/yet/there/old/checkpoints/12/rank_0.pt", "wb") as file:
        file.truncate(20_000_000)                               # resumed: these bytes are not written again
    assert print_plan(*arguments) == []


def test_the_parts_of_the_records_need_room_until_they_exist(data, monkeypatch, capsys):
    arguments = ([training(data)], data / "records", data / "ijb", "IJBC", data / "out", 1)
    with open(data / "records/train.rec", "ab") as file:        # a large file: one more record, which is a hole
        file.write(MAGIC_BYTES + bytes(4))
        file.truncate(10**10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(2 * 10**10))
    assert "about 20.02 GB will be written" in print_plan(*arguments)[0]
    for part in ("30_class", "70_class", "30_data", "70_data"):
        write_records(data / f"records/train_part_{part}", [4, 4])
    capsys.readouterr()
    assert print_plan(*arguments) == [] and "parts of train.rec" not in capsys.readouterr().out


def test_fewer_images_than_a_step_needs(data):
    arguments = ([training(data, "batch_size=7")], data / "records", data / "ijb", "IJBC", data / "out")
    assert print_plan(*arguments, 1) == []
    assert print_plan(*arguments, 2) == ["old has 12 images, fewer than a step needs; lower old:batch_size"]


def test_settings_reach_the_trainings_that_they_are_for(monkeypatch):
    found = recipe(monkeypatch, "OPdata", "--methods", "BCT,soft=BCT,weakenedL2", "soft:bct_scale=1", "soft:lr=0.1",
                   "new:lr=0.2", "lr=0.3", "old:network=a:b", "lr=0.4")
    settings = {t.name: [s for s in t.settings if s.startswith(("lr", "bct", "network"))] for t in found.trainings}
    assert settings == {"old": ["lr=0.4", "network=a:b"], "paragon": ["lr=0.2"], "BCT": ["lr=0.2"],
                        "soft": ["lr=0.1", "bct_scale=1"], "weakenedL2": ["lr=0.2"]}
    by_name = {t.name: t for t in found.trainings}
    assert by_name["soft"].config == "BCT_Methods/BCT/configs/OPdata_ms1mv3_r18_to_r50_BCT_arc_to_arc_f512.py"
    assert by_name["weakenedL2"].script == "BCT_Methods/L2/train.py" and "rec=train_part_70_data" in by_name["paragon"].settings
    assert (by_name["old"].config, by_name["old"].script) == ("configs/f512_r18_arc_data30.py", "train_old_arc.py")
    assert found.sd == "f512_r18_arc_data70" and found.paragon_sd == "f512_r50_arc_data70"
    assert split_setting("a:b=c:d") == ("a", "b=c:d") and split_setting("b=c:d=e") == ("", "b=c:d=e")


@pytest.mark.parametrize("words, sentence", [
    (["bct:lr=1"], "settings for bct: expected new or one of old, paragon, MixBCT"),
    (["lr"], "expected KEY=VALUE or NAME:KEY=VALUE, found 'lr'"),
    ([":lr=1"], "expected KEY=VALUE or NAME:KEY=VALUE, found ':lr=1'"),
    (["L2:output=x"], "expected a setting other than dataset, .*, found 'L2:output=x'; use --records and --out"),
    (["--family", "softmax_to_arc_f64"], "no config .*OPclass_ms1mv3_r18_to_r50_MixBCT_softmax_to_arc_f64.py"),
    (["--family", "arc"], "no config .*_MixBCT_arc.py"),
    (["--methods", "Mix"], "no config .*_Mix_"),
    (["--methods", "BCT,BCT=L2"], "expected different names .* found 'BCT'"),
    (["--methods", "old=BCT"], "none of old, paragon.* found 'old'"),
    (["--methods", "a/b=BCT"], "found 'a/b'"),
    (["--methods", "seed_2=BCT"], "none that begins with seed_; found 'seed_2'"),
    (["--methods", "BCT,"], "found ''")])
def test_wrong_arguments_are_refused(monkeypatch, words, sentence):
    with pytest.raises(UserError, match=sentence):
        recipe(monkeypatch, "OPclass", *words)


def words(data: Path, *more: str) -> list[str]:
    return ["OPclass", "--family", "softmax_to_arc_f128", "--methods", "MixBCT,soft=L2", "--records", str(data / "records"),
            "--ijb", str(data / "ijb"), "--out", str(data / "out"), *SMALL, "frequent=1", "old:num_epoch=15",
            "soft:threshold=0.2", *more]


def test_a_dry_run_for_four_gpus(data, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "hardware", lambda: (4, 16))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(10**12))
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words(data, "batch_size=2", "--dry-run")])
    reproduce.main()
    out = capsys.readouterr().out
    assert out.count("--nproc_per_node=4") == 6 and "all inputs are there" in out and not (data / "out").exists()
    assert re.search(r"old +\| +mbf +\| +12 +\| +15 +\| +15 ", out) and re.search(r"soft +\| +mbf +\| +28 +\| +1 +\| +3 ", out)
    for name in ("(cd . && ", "(cd BCT_Methods/MixBCT && ", "(cd BCT_Methods/L2 && "):
        assert name in out


def test_a_dry_run_reports_everything_that_is_missing(data, monkeypatch):
    shutil.rmtree(data / "ijb/IJBC/meta")
    (data / "records/train.rec").unlink()
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words(data, "soft:learning=1", "--dry-run")])
    with pytest.raises(UserError, match=r"(?s)records/train.*; and .*unknown key config.learning.*; and .*no IJBC data"):
        reproduce.main()
    assert not (data / "out").exists()


@pytest.fixture
def start():
    """Starts reproduce.py in a process group of its own, which ends with the test."""
    started = []

    def run(data: Path, *more: str) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, ROOT / "tools/reproduce/reproduce.py", *words(data, *more)], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                                        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}))
        return started[-1]
    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.long
def test_a_killed_reproduction_continues(data, start, monkeypatch, capsys):
    """The first start is killed with all its processes; the others run here.  The old model's training lasts until the kill."""
    more = ("--backfill", "2", "network=cnn_s", "old:network=mbf")
    killed, out = start(data, *more), data / "out"
    while not any(out.glob("old/checkpoints/*/complete.json")) and killed.poll() is None:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    assert "done" not in json.loads((out / "steps/old.json").read_text()), killed.communicate()[0]

    end, text = reproduce_here(monkeypatch, capsys, *words(data, *more))
    assert end is None and "== split" not in text and "paragon+Procrustes" in text, text
    first, resumed = (out / "log/old.log").read_text().split("$ cd ")[1:]
    assert "resume=True" not in first and "epoch 1/15  step 1/45" in first and "resume=True" in resumed
    epochs = [int(number) for number in re.findall(r"epoch (\d+)/15", resumed)]
    assert 1 < epochs[0] <= 15 and epochs[-1] == 15
    assert (out / "compare/index.html").is_file() and (out / "first/index.html").is_file()
    assert json.loads((out / "compare/compare.json").read_text())["versions"].keys() > {"old", "MixBCT", "soft", "paragon"}

    end, text = reproduce_here(monkeypatch, capsys, *words(data, *more, "--seeds", "2"))
    assert end is None and text.count("done before") == 9 and text.count("s since the start") == 10, text      # 8 steps, the page
    assert len(re.findall("== seed_2_.*: [0-9]+ s since the start", text)) == 8 and "== seed_2_split" not in text
    versions = json.loads((out / "compare/compare.json").read_text())["versions"]
    assert versions.keys() > {"old", "MixBCT", "soft", "paragon"} and {one["trainings"] for one in versions.values()} == {2}
    weights = [(folder / "MixBCT/model.pt").read_bytes() for folder in (out, out / "seed_2")]
    assert weights[0] != weights[1]

    expected = {row[0]: row[-1] for row in plan_rows(recipe(monkeypatch, *words(data, *more)).trainings, data / "records", 1)}
    for name, size in expected.items():
        assert plan.size_of([out / name]) == pytest.approx(size, rel=0.1), name
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words(data, *more, "soft:threshold=0.3", "--dry-run")])
    with pytest.raises(UserError, match=r"soft was trained with other settings \(then: threshold=0.2, now: threshold=0.3\)"):
        reproduce.main()


def test_exchanged_folders_are_named(tmp_path):
    (tmp_path / "ijb/IJBC").mkdir(parents=True)
    (tmp_path / "records").mkdir()
    (tmp_path / "records/train.rec").touch()
    first = check_inputs([], tmp_path / "ijb", tmp_path / "records", "IJBC")[0]
    assert first == (f"--records {tmp_path}/ijb holds an evaluation set and --ijb {tmp_path}/records a training set: exchange "
                     f"the two folders")
