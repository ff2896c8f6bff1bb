"""A reproduction's commands, written out: config, folder, settings, --SD and needs of each step; and what runs when."""

import json
import os
import re
import shlex
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from toy import write_ijb, write_records

from engine import cost
from records.split import split
from tools.reproduce import plan, reproduce, small
from tools.reproduce.plan import parts_exist, print_plan
from tools.reproduce.reproduce import METHODS, Recipe, all_steps, parse_arguments
from tools.reproduce.steps import Step, run_steps
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["network=mbf", "image_size=16", "batch_size=4", "num_epoch=1", "workers=0", "val_targets=[]"]


def recipe(monkeypatch, *words) -> Recipe:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, words)])
    return Recipe(parse_arguments())


# --- the commands ------------------------------------------------------------------------------------------

def test_every_command_of_one_scenario(tmp_path, monkeypatch):
    """README, steps 1 to 4: the old model and its features first, then what is trained on them, then the comparison."""
    data, ijb, out = tmp_path / "records", tmp_path / "ijb", tmp_path / "out"
    found = all_steps([recipe(monkeypatch, "OPclass", "--family", "softmax_to_arc_f128", "--methods", "MixBCT,weak=weakenedL2",
                              "--records", data, "--ijb", ijb, "--out", out, "--backfill", "6", "lr=3", "new:lr=2", "old:lr=1",
                              "weak:lr=4",
                              "old:network=r34", "MixBCT:mix_ratio=0.5")], ["launch"])
    python, old_config, save = sys.executable, "configs/f128_r18_softmax_class30.py", out / "feature_save"
    sd, own_sd = "f128_r18_softmax_class70", "f128_r50_arc_class70"
    mine = "OPclass_ms1mv3_r18_to_r50_{}_softmax_to_arc_f128.py"

    def settings(name: str, *more: str) -> list[str]:
        return [f"dataset={data}", f"feature_save={save}", f"output={out / name}", *more]

    old, paragon = settings("old", "lr=1", "network=r34"), settings("paragon", "rec=train_part_70_class", "lr=2")
    model = f"old_model={out}/old/model.pt"
    feature, means = "tools/get_feature/get_feature.py", "tools/get_feature/get_avg_feature.py"
    own_config = "configs/f128_r50_arc_data100.py"

    def compare(folder: str, *new: str) -> list[str]:
        title = "OPclass, softmax_to_arc_f128: can the new one replace the old?"
        return [python, "tools/compare/compare.py", "--data", str(ijb), "--subset", "IJBC",
                "--old", f"old={out}/old/model.pt:r34", "--new", *new, "--paragon", f"paragon={out}/paragon/model.pt:r50",
                "--old-features", f"{save}/OPclass/{sd}_feature.npy",
                "--new-features", f"paragon={save}/OPclass/{own_sd}_feature.npy",
                "--title", title + " First answer: MixBCT, one training" * (folder == "first"),
                "--backfill", "6", "--orders", "5", "--embeddings", f"{out}/compare/embeddings", "--out", f"{out}/{folder}"]

    expected = [
        ("split", (), ROOT, [python, "tools/split_dataset/split_dataset_ms1mv3.py", f"--data={data}"]),
        ("old", ("split",), ROOT, ["launch", "train_old_softmax.py", old_config, *old]),
        ("old_features", ("old",), ROOT, ["launch", feature, old_config, "--SD", sd, "--force", *old]),
        ("credible", ("old_features",), ROOT, [python, "tools/get_feature/denoise_credible.py", "--T", "0.9", "--SD", sd,
                                               f"--feature-save={save}"]),
        ("means", ("old_features",), ROOT, [python, means, "--SD", sd, f"--feature-save={save}"]),
        ("paragon", ("split",), ROOT, ["launch", "train_old_arc.py", own_config, *paragon]),
        ("MixBCT", ("credible", "means"), ROOT / "BCT_Methods/MixBCT",
         ["launch", "train.py", f"configs/{mine.format('MixBCT')}", *settings("MixBCT", model, "lr=2", "mix_ratio=0.5")]),
        ("paragon_features", ("paragon",), ROOT, ["launch", feature, own_config, "--SD", own_sd, "--force", *paragon]),
        ("first", ("paragon_features", "MixBCT"), ROOT, compare("first", f"MixBCT={out}/MixBCT/model.pt:r50")),
        ("weak", ("credible", "means"), ROOT / "BCT_Methods/L2",
         ["launch", "train.py", f"configs/{mine.format('weakenedL2')}", *settings("weak", model, "lr=4")]),
        ("compare", ("split", "old", "old_features", "credible", "means", "paragon", "MixBCT", "paragon_features", "weak",
                     "first"), ROOT, compare("compare", f"MixBCT={out}/MixBCT/model.pt:r50", f"weak={out}/weak/model.pt:r50"))]
    for step, (name, needs, folder, command) in zip(found, expected, strict=True):
        assert (step.name, step.needs, step.folder, step.command) == (name, needs, folder, command), name
    made = {step.name: step.makes for step in found if step.makes}
    assert made == {"old_features": save / f"OPclass/{sd}_feature.npy", "means": save / f"OPclass/{sd}_avg_feature.npy",
                    "credible": save / f"OPclass/{sd}_credible_ratio_90_feature.npy",
                    "paragon_features": save / f"OPclass/{own_sd}_feature.npy", "first": out / "first/index.html",
                    **{name: out / name / "model.pt" for name in ("old", "paragon", "MixBCT", "weak")}}
    assert [step.name for step in found if step.trains] == ["old", "paragon", "MixBCT", "weak"]
    assert [step.name for step in found if step.again] == ["compare"]


def test_each_seed_has_its_own_old_model_and_one_page_compares_them(tmp_path, monkeypatch):
    """Three seeds: the commands of the first are those of a run with one; the others differ in seed and folders only."""
    words = ["OPclass", "--family", "softmax_to_arc_f128", "--methods", "L2,BCT", "--records", tmp_path / "records", "--ijb",
             tmp_path / "ijb", "old:seed=7", "L2:seed=5"]
    out = tmp_path / "out"

    def steps(seeds: int, folder: Path = out) -> dict[str, Step]:
        one = recipe(monkeypatch, *words, "--out", folder, "--seeds", seeds)
        found = all_steps([one, *(Recipe(one.args, k) for k in range(2, seeds + 1))], ["launch"])
        assert len({step.name for step in found}) == len({tuple(step.command) for step in found}) == len(found)
        return {step.name: step for step in found}

    one, three = steps(1), steps(3)
    per_seed = ["old", "old_features", "credible", "means", "paragon", "L2", "paragon_features", "BCT"]
    assert list(one) == ["split", *per_seed[:7], "first", "BCT", "compare"]
    assert list(three) == [*list(one)[:-1], *(f"seed_{k}_{name}" for k in (2, 3) for name in per_seed), "compare"]
    for name in list(one)[:-1]:
        assert (one[name].command, one[name].needs, one[name].makes) == (
            three[name].command, three[name].needs, three[name].makes), name
    elsewhere = steps(1, out / "seed_3")                # a run of one seed in the folder of the third
    for name in per_seed:
        step, alone = three[f"seed_3_{name}"], elsewhere[name]
        assert step.makes == alone.makes and step.trains == alone.trains and step.folder == alone.folder
        assert step.needs == tuple(need if need == "split" else f"seed_3_{need}" for need in alone.needs)
        seed = {"old": 9, "old_features": 9, "L2": 7}.get(name, 668)
        assert [word for word in step.command if not word.startswith("seed=")] == [
            word for word in alone.command if not word.startswith("seed=")]
        assert f"seed={seed}" in step.command or name in ("credible", "means"), name
    page = three["compare"]
    assert set(page.needs) == set(three) - {"compare"}
    options = {page.command[i]: page.command[i + 1] for i in range(2, len(page.command) - 1)}
    folders = [str(out), f"{out}/seed_2", f"{out}/seed_3"]
    assert options["--orders"] == "2"                   # six curves of each version
    assert options["--old"] == "old=" + ",".join(f"{folder}/old/model.pt" for folder in folders) + ":r18"
    assert options["--new"] == "L2=" + ",".join(f"{folder}/L2/model.pt" for folder in folders) + ":r50"
    assert options["--paragon"] == "paragon=" + ",".join(f"{folder}/paragon/model.pt" for folder in folders) + ":r50"
    for option, start, sd in (("--old-features", "", "f128_r18_softmax_class70"), ("--new-features", "paragon=",
                                                                                    "f128_r50_arc_class70")):
        assert options[option] == start + ",".join(f"{folder}/feature_save/OPclass/{sd}_feature.npy" for folder in folders)


def test_one_method_and_one_seed_need_no_first_page(tmp_path, monkeypatch):
    found = all_steps([recipe(monkeypatch, "OPclass", "--methods", "L2", "--out", tmp_path)], ["launch"])
    assert [step.name for step in found][-2:] == ["paragon_features", "compare"]


def test_a_folder_with_a_comma_cannot_hold_several_trainings(tmp_path, monkeypatch):
    recipe(monkeypatch, "OPclass", "--out", tmp_path / "a,b")
    with pytest.raises(UserError, match="a,b: expected a folder without a comma in its path"):
        recipe(monkeypatch, "OPclass", "--out", tmp_path / "a,b", "--seeds", 2)


@pytest.mark.parametrize("scenario, family, old, sd, rec", [
    ("EXclass", "arc_to_arc_f512", "f512_r18_arc_class30", "f512_r18_arc_class100", "train"),
    ("EXdata", "softmax_to_arc_f512", "f512_r18_softmax_data30", "f512_r18_softmax_data100", "train"),
    ("OPclass", "softmax_to_arc_f256", "f256_r18_softmax_class30", "f256_r18_softmax_class70", "train_part_70_class"),
    ("OPclass", "softmax_to_arc_f128_to_f512", "f128_r18_softmax_class30", "f128_r18_softmax_class70", "train_part_70_class"),
    ("OPdata", "arc_to_arc_f512", "f512_r18_arc_data30", "f512_r18_arc_data70", "train_part_70_data")])
def test_each_scenario_has_its_old_model_its_features_and_its_images(monkeypatch, scenario, family, old, sd, rec):
    found = recipe(monkeypatch, scenario, "--family", family, "--methods", "UniBCT")
    trained = {training.name: training for training in found.trainings}
    assert (trained["old"].config, trained["old"].script) == (f"configs/{old}.py", f"train_old_{family.split('_')[0]}.py")
    assert (found.sd, found.paragon_sd) == (sd, f"{family[-4:]}_r50_arc_{sd.split('_')[-1]}")
    assert trained["paragon"].config == f"configs/{family[-4:]}_r50_arc_data100.py"
    assert trained["paragon"].script == "train_old_arc.py" and f"rec={rec}" in trained["paragon"].settings
    method = trained["UniBCT"].load()
    assert (method.scenario, method.rec, method.old_feature) == (scenario, rec, f"{scenario}/{sd}_feature.npy")
    assert method.old_model == str(found.out / "old/model.pt") and found.out == ROOT / "reproduce_output" / scenario


def test_all_seven_methods_are_trained_by_default(monkeypatch):
    found = recipe(monkeypatch, "OPdata")
    assert [t.name for t in found.trainings] == ["old", "paragon", *METHODS] and len(METHODS) == 7
    assert [Path(t.script).parent.name for t in found.trainings[2:]] == ["MixBCT", "UniBCT", "NCCL", "BCT", "AdvBCT", "L2", "L2"]


@pytest.mark.parametrize("words, old, paragon, one, two", [
    (["lr=1"], 1, 1, 1, 1), (["old:lr=1"], 1, .1, .1, .1), (["new:lr=1"], .1, 1, 1, 1), (["two:lr=1"], .1, .1, .1, 1),
    (["two:lr=1", "new:lr=2", "lr=3"], 3, 2, 2, 1), (["old:lr=1", "lr=3"], 1, 3, 3, 3), (["paragon:lr=1"], .1, 1, .1, .1),
    (["lr=1", "lr=2"], 2, 2, 2, 2)])
def test_the_nearer_scope_of_a_setting_wins(monkeypatch, words, old, paragon, one, two):
    found = recipe(monkeypatch, "OPclass", "--methods", "one=L2,two=L2", *words)
    assert [training.load().lr for training in found.trainings] == [old, paragon, one, two]


# --- --small -------------------------------------------------------------------------------------------------

def settings_by_name(made: Recipe) -> dict[str, dict[str, str]]:
    return {training.name: dict(text.split("=", 1) for text in training.settings) for training in made.trainings}


def test_small_is_a_preset_below_the_command_line(monkeypatch, tmp_path):
    """Each training has the preset of its scope, a method's under any name; whatever the user gives wins, of any scope."""
    made = recipe(monkeypatch, "OPclass", "--small", "--methods", "MixBCT,BCT,soft=BCT,UniBCT", "--out", tmp_path, "lr=0.3",
                  "batch_size=32", "BCT:bct_scale=1")
    found = settings_by_name(made)
    assert all(one["network"] == "mbf" and one["image_size"] == "32" and one["batch_size"] == "32" for one in found.values())
    assert {one["lr"] for one in found.values()} == {"0.3"}
    assert "clip" not in found["old"] and {found[name]["clip"] for name in found if name != "old"} == {"100"}
    assert found["soft"]["bct_scale"] == found["UniBCT"]["bct_scale"] == "16" and found["BCT"]["bct_scale"] == "1"
    assert found["UniBCT"]["refine_epoch"] == "[5,10]"
    assert "refine_epoch" not in found["BCT"] and "bct_scale" not in found["MixBCT"]
    plain = settings_by_name(recipe(monkeypatch, "OPclass", "--small", "--out", tmp_path))
    assert plain["old"]["lr"] == "0.1" and plain["MixBCT"]["lr"] == plain["paragon"]["lr"] == "0.2"
    assert list(plain) == ["old", "paragon", "MixBCT", "L2", "BCT"]


@pytest.mark.parametrize("scenario", ["OPclass", "EXclass", "OPdata", "EXdata"])
def test_small_is_accepted_by_every_training(monkeypatch, tmp_path, scenario):
    made = recipe(monkeypatch, scenario, "--small", "--methods", ",".join(METHODS), "--out", tmp_path)
    for training in made.trainings:
        cfg = training.load()
        assert (cfg.network, cfg.num_epoch, cfg.scale, cfg.margin_list) == ("mbf", 16, 16, (1.0, 0.2, 0.0))


def test_small_prints_what_it_sets_as_a_command_line(monkeypatch, tmp_path):
    """The printed options, given instead of --small, are the same trainings."""
    made = recipe(monkeypatch, "OPclass", "--small", "--out", tmp_path)
    text = small.describe(made.args.family, made.args.methods, made.preset).splitlines()[0]
    words = shlex.split(text.removeprefix("--small is short for: "))
    assert settings_by_name(recipe(monkeypatch, "OPclass", "--out", tmp_path, *words)) == settings_by_name(made)


# --- the start ---------------------------------------------------------------------------------------------

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
    (data / "out/steps/L2.json").write_text(json.dumps({"command": [*step.command, "lr=9"]}))
    with pytest.raises(UserError, match="L2 was trained with other settings .then: lr=9"):
        start(0, "--dry-run")


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


# --- running -----------------------------------------------------------------------------------------------

def test_a_step_whose_command_or_inputs_changed_runs_again_and_so_does_what_needs_it(tmp_path):
    """first <- second <- third; other is for itself.  Each step notes its name."""
    note = tmp_path / "notes"

    def ran(**commands: str) -> list[str]:
        note.write_text("")
        steps = [Step(name, ["bash", "-c", f"echo {name} >> {note}; {commands.get(name, 'true')}"], needs, tmp_path)
                 for name, needs in (("first", ()), ("second", ("first",)), ("third", ("second",)), ("other", ()))]
        run_steps(steps, tmp_path / "out", 0, 1)
        return sorted(note.read_text().split())

    assert ran() == ["first", "other", "second", "third"] and ran() == []
    assert ran(second="true 2") == ["second", "third"]
    assert ran(second="true 2", first=":") == ["first", "second", "third"]
    assert ran(second="true 2", first=":", other=":") == ["other"]


@pytest.mark.parametrize("gpus, cores, trainings, threads", [(0, 8, 2, "4"), (0, 3, 1, "3"), (0, 2, 4, "1"), (1, 8, 2, "none")])
def test_cores_are_shared_and_a_gpu_takes_one_training_at_a_time(tmp_path, monkeypatch, gpus, cores, trainings, threads):
    """Each step notes its threads and whether another one was running: on a GPU never."""
    for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    note, busy = tmp_path / "notes", tmp_path / "busy"
    text = (f'mkdir {busy} 2> /dev/null && alone=alone || alone=together; threads=${{OMP_NUM_THREADS:-none}}; '
            f'echo "$threads $alone $GOMP_SPINCOUNT" >> {note}; sleep 0.05; rmdir {busy} 2> /dev/null; '
            f'mkdir -p "$(dirname "$1")"; touch "$1"')
    steps = [Step(str(k), ["bash", "-c", text, "bash", f"{tmp_path}/out/{k}/model.pt"], (), tmp_path,
                  makes=tmp_path / f"out/{k}/model.pt", trains=True) for k in range(trainings)]
    steps.append(Step("page", ["bash", "-c", text, "bash", f"{tmp_path}/page"], tuple(map(str, range(trainings))), tmp_path,
                      again=True))
    run_steps(steps, tmp_path / "out", gpus, cores)
    *lines, page = note.read_text().split("\n")[:-1]
    assert {line.split()[0] for line in lines} == {threads} and len(lines) == trainings
    assert page.split()[0] == ("none" if gpus else str(cores))          # nothing runs next to it
    assert {line.split()[2] for line in lines} == {"1000"}       # a waiting thread must not keep a core from another job for long
    assert not gpus or {line.split()[1] for line in lines} == {"alone"}
    assert "OMP_NUM_THREADS" not in os.environ
