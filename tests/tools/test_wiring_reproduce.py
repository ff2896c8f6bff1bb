"""A reproduction's commands, written out: config, folder, settings, --SD and needs of each step; --small."""

import shlex
import sys
from pathlib import Path

import pytest
from reproduction_toys import recipe

from tools.reproduce import small
from tools.reproduce.reproduce import METHODS, Recipe, all_steps
from tools.reproduce.steps import Step
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


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
    assert made == {"split": data / "train.rec",
                    "old_features": save / f"OPclass/{sd}_feature.npy", "means": save / f"OPclass/{sd}_avg_feature.npy",
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
