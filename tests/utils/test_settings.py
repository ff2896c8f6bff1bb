"""Settings: which values each kind accepts, which sentence refuses the others, and that nothing changes them afterwards."""

import io
import pickle
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from toy import write_records

from BCT_Methods.MixBCT.train import MixBCT
from engine import loop, parts
from engine.method import Method
from utils import config
from utils.config import load_config, read_schema
from utils.errors import UserError
from utils.paths import ROOT
from utils.settings import Settings, refusals


def test_every_default_is_accepted():
    for folder in (ROOT / "configs", *ROOT.glob("BCT_Methods/*/configs")):
        schema, values = read_schema(folder)
        assert values.keys() == schema.keys() and list(refusals(values, schema)) == []


def test_settings_are_frozen():
    cfg = Settings(lr=0.1, network="r18")
    for change in (lambda: setattr(cfg, "lr", 1), lambda: cfg.__setitem__("lr", 1), lambda: cfg.__delitem__("lr"),
                   lambda: cfg.update(lr=1), lambda: cfg.pop("lr"), lambda: cfg.popitem(), lambda: cfg.clear(),
                   lambda: cfg.setdefault("new", 1), lambda: cfg.__ior__({"lr": 1})):
        with pytest.raises(TypeError, match="settings are frozen"):
            change()
    assert cfg == {"lr": 0.1, "network": "r18"} and cfg.lr == cfg["lr"] == 0.1
    with pytest.raises(AttributeError, match="no setting config.rate"):
        print(cfg.rate)


def test_replaced_and_pickled_settings_are_settings():
    """Replacing makes another set, and leaves the first one alone; a loader process gets its settings by pickle."""
    cfg = Settings(lr=0.1, network="r18")
    other = cfg.replace(lr=0.2, seed=3)
    assert type(other) is Settings and other == {"lr": 0.2, "network": "r18", "seed": 3} and cfg.lr == 0.1
    again = pickle.loads(pickle.dumps(other))
    assert type(again) is Settings and again == other


# the order of the files

def test_the_folders_base_wins_over_configs_base(tmp_path):
    """Its settings replace those of the same name: default, meaning and limits; a plain value is a default without a check."""
    (tmp_path / "base.py").write_text("from utils.settings import number\n"
                                      "config = dict(lr=number(7.0, 'mine', above=5), momentum=3, mine=0.5)")
    schema, values = read_schema(tmp_path)
    assert (values["lr"], values["momentum"], values["mine"], values["num_epoch"]) == (7.0, 3, 0.5, 35)
    assert schema["lr"].meaning == "mine" and "momentum" not in schema and "mine" not in schema and "num_epoch" in schema
    (tmp_path / "mine.py").write_text("config = dict(momentum=-1)")
    assert load_config(tmp_path / "mine.py", ["lr=6"]).replace().momentum == -1
    with pytest.raises(UserError, match="config.lr = 4 in the command line: expected a number above 5"):
        load_config(tmp_path / "mine.py", ["lr=4"])
    with pytest.raises(UserError, match="config.mine = 'much' in the command line: expected a number or True or False"):
        load_config(tmp_path / "mine.py", ["mine=much"])


def test_a_default_that_was_edited_is_checked(tmp_path):
    """All wrong ones in one sentence."""
    (tmp_path / "base.py").write_text("from utils.settings import flag, number\n"
                                      "config = dict(lr=number(0, 'm', above=0), share=number(3, 'm', most=1), on=flag(1, 'm'))")
    (tmp_path / "mine.py").write_text("config = dict(share=0.5)")
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "mine.py")
    assert str(error.value) == "config.lr = 0: expected a number above 0; config.on = 1: expected True or False"


# a real call of a training script

class Built(Exception):
    """The settings and the records are accepted."""


def start(*arguments: str, method: type[Method] = Method, script: str = "train_old_arc.py", network: type = Built) -> tuple:
    """(exit code, what was said) of a training script's main with these arguments, in this process, up to the network."""
    said = io.StringIO()

    def built(*_, **__):
        if network is Built:
            raise Built
        return network()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said), redirect_stdout(said):
        patch.setattr("sys.argv", [str(ROOT / script), *arguments])
        patch.setattr(parts, "get_model", built)
        try:
            loop.main(method)
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
    return code, said.getvalue()


MIX = str(ROOT / "BCT_Methods/MixBCT/configs/OPclass_ms1mv3_r18_to_r50_MixBCT_softmax_to_arc_f128.py")
PLAIN = str(ROOT / "configs/f512_r18_arc_class30.py")
# KEY=VALUE: the words after "expected"
WRONG = {
    "clip=0": "a number above 0 (1e9 never clips)", "clip=-1": "a number above 0 (1e9 never clips)",
    "clip=None": "a number above 0 (1e9 never clips)", "momentum=7": "a number from 0, below 1",
    "momentum=-1": "a number from 0, below 1", "batch_size=1": "a whole number from 2 up (BatchNorm needs two images)",
    "decay_epoch=5": "a list, each a whole number from 1 up",
    "margin_list=0.5": "a list of 3 values, each a number from 0, up to 3",
    "margin_list=(1.0, 0.5)": "a list of 3 values, each a number from 0, up to 3",
    "dropout=2": "a number from 0, below 1", "lr=-0.1": "a number above 0", "lr=0": "a number above 0",
    "scale=0": "a number above 0",
    "embedding_size=0": "a whole number from 1 up", "num_classes='ten'": "a whole number from 2 up, or None",
    "num_classes=1": "a whole number from 2 up, or None", "mix_ratio=3": "a number from 0, up to 1",
    "mix_ratio=-0.1": "a number from 0, up to 1", "output=''": "a name or path that is not empty, or None",
    "rec=''": "a name or path that is not empty", "rec=None": "a name or path that is not empty",
    "weight_decay=-1": "a number from 0", "sample_rate=0": "a number above 0, up to 1",
    "image_size=100": "a whole number from 16 up, a multiple of 16", "fp16=1": "True or False",
    "optimizer='lion'": '"sgd" or "adamw"',
    "scenario='open'": '"EXclass", "EXdata", "OPclass" or "OPdata", or None',
    "val_targets='lfw'": "a list, each a name or path that is not empty", "num_epoch=2.5": "a whole number from 1 up",
}


@pytest.mark.parametrize("place", ["command line", "config file"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_value_ends_with_one_sentence(wrong, place, tmp_path, monkeypatch):
    """Exit code 1 and nothing but the sentence, before anything is opened: no folder is made, and the records are not missed."""
    monkeypatch.chdir(tmp_path)
    key, _, value = wrong.partition("=")
    (tmp_path / "base.py").write_text((Path(MIX).parent / "base.py").read_text())
    mine = tmp_path / "mine.py"
    mine.write_text(f"config = dict({wrong})" if place == "config file" else "config = dict()")
    more = [f"{key}={value.replace(chr(39), '')}"] if place == "command line" else []       # a shell takes the quotes away
    code, said = start(str(mine), "dataset=nowhere", f"output={tmp_path}/mine", *more, method=MixBCT)
    source = "the command line" if place == "command line" else mine
    assert (code, said) == (1, f"error: config.{key} = {value} in {source}: expected {WRONG[wrong]}\n")
    assert {path.name for path in tmp_path.iterdir()} == {"base.py", "mine.py"}


@pytest.mark.parametrize("settings, sentence", [
    (["margin_list=(2.0,0.5,0.0)"], "config.margin_list = (2.0, 0.5, 0.0): expected m1 = 1"),
    (["warmup_epoch=35.5"], "config.warmup_epoch = 35.5: expected at most config.num_epoch = 35 epochs"),
    (["network=r19"], "unknown network 'r19'; did you mean r18?"),
    (["sample_rate=0.5", "gradient_acc=2"], "set one of them to 1"), (["dali=True"], "set it to False"),
    (["batchsize=3"], "did you mean config.batch_size?"), (["zebra=3"], "unknown key config.zebra in the command line"),
    (["lr"], "expected KEY=VALUE after the config file, found 'lr'")])
def test_settings_that_do_not_go_together_end_with_one_sentence_too(settings, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = start(PLAIN, "dataset=nowhere", f"output={tmp_path}/mine", *settings)
    assert code == 1 and said.startswith("error: ") and sentence in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_warm_up_may_be_the_whole_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = start(PLAIN, "dataset=nowhere", f"output={tmp_path}/mine", "warmup_epoch=35")
    assert code == 1 and "error: no file " in said


@pytest.fixture
def few(tmp_path, monkeypatch) -> list[str]:
    """The working folder has train.rec, 49 images of five identities: two epochs of six steps.  It is the repository, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.setattr(config, "ROOT", tmp_path)
    write_records(tmp_path / "train", [9, 12, 7, 10, 11])
    return [PLAIN, "rec=train", "batch_size=8", "num_epoch=2", "workers=0", "image_size=16", "val_targets=[]"]


def test_a_training_that_could_not_learn_ends_with_one_sentence(few, tmp_path):
    """More steps to an update than the run has, and one identity only; both are found before a network is built."""
    code, said = start(*few, "output=out", "gradient_acc=13")
    assert code == 1 and "Traceback" not in said and said.splitlines()[-1].startswith(
        "error: the training has 12 steps, fewer than config.gradient_acc = 13: the weights would never be updated")
    with pytest.raises(Built):
        start(*few, "output=out", "gradient_acc=12")
    write_records(tmp_path / "one", [9])
    code, said = start(*few, "output=out", "rec=one")
    assert code == 1 and "Traceback" not in said and "one.rec holds one identity" in said.splitlines()[-1]
    code, said = start(*few, "output=out", "rec=one", "num_classes=5")                      # whatever the settings say
    assert code == 1 and "one.rec holds one identity" in said.splitlines()[-1]
    write_records(tmp_path / "two", [9, 9])
    with pytest.raises(Built):
        start(*few, "output=out", "rec=two")


def test_a_path_is_text_whatever_it_looks_like(few, tmp_path):
    """Folders and records whose names are numbers."""
    late = ["gradient_acc=99"]                              # ends the run after its folder and records were opened
    code, said = start(*few, "output=2024", *late)
    assert code == 1 and "the training has 12 steps" in said and (tmp_path / "2024/training.log").is_file()
    write_records(tmp_path / "30", [9, 9, 9])
    code, said = start(*few, "output=out", "rec=30", *late)
    assert code == 1 and "the training has 6 steps" in said
    code, said = start(*few, "output=out", "dataset=1", "rec=missing")
    assert code == 1 and f"error: no file {tmp_path}/1/missing.rec" in said
    (tmp_path / "1").mkdir()
    write_records(tmp_path / "1/2", [9, 9])
    code, said = start(*few, "output=out", f"dataset={tmp_path / '1'}", "rec=2", *late)
    assert code == 1 and "the training has 4 steps" in said


def test_the_files_of_the_old_model_may_have_numbers_for_names(few, tmp_path):
    """Features, and the model: a missing one is not compared, one that is there is read."""
    mix = [MIX, *few[1:], "output=out", "feature_save=2024", "old_feature=8", "old_model=7"]
    code, said = start(*mix, method=MixBCT, network=torch.nn.Identity)
    assert code == 1 and f"error: no file {tmp_path}/2024/8" in said.splitlines()[-1]
    (tmp_path / "7").write_text("not a model")
    code, said = start(*mix, method=MixBCT, network=torch.nn.Identity)
    assert code == 1 and said.splitlines()[-1].startswith(f"error: {tmp_path}/7 ")


def test_relative_folders_are_below_the_repository_wherever_the_command_starts(few, tmp_path, monkeypatch):
    """From the folder of a method, ``output=work_dirs/a`` is the folder that an evaluation from the repository finds."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "model.pt").touch()
    monkeypatch.chdir(tmp_path / "deep")
    (tmp_path / "deep/work_dirs").mkdir()
    cfg = load_config(PLAIN, ["output=work_dirs/a", "feature_save=old", "old_model=model.pt"])
    assert [cfg.output, cfg.feature_save, cfg.old_model] == [f"{tmp_path}/{name}" for name in ("work_dirs/a", "old", "model.pt")]
    cfg = load_config(PLAIN, ["output=/x/a", "feature_save=/x/b"])
    assert (cfg.output, cfg.feature_save, cfg.old_model) == ("/x/a", "/x/b", None)


def test_records_are_looked_up_in_the_data_set_before_the_current_folder(few, tmp_path):
    write_records(tmp_path / "mine/train", [9, 9, 9])
    code, said = start(*few, "output=out", f"dataset={tmp_path / 'mine'}", "gradient_acc=99")
    assert code == 1 and "the training has 6 steps" in said
    code, said = start(*few, "output=out", f"dataset={tmp_path / 'none'}", "gradient_acc=99")
    assert code == 1 and "the training has 12 steps" in said


def test_a_users_own_key_in_a_config_file_is_only_warned_about(few, tmp_path, caplog):
    (tmp_path / "mine.py").write_text("config = dict(zebra=3)")
    code, said = start(str(tmp_path / "mine.py"), *few[1:], "output=out", "gradient_acc=13")
    assert code == 1 and "the training has 12 steps" in said.splitlines()[-1]
    assert caplog.messages == [f"unknown key config.zebra in {tmp_path}/mine.py: nothing here reads it"]


# --help

@pytest.mark.parametrize("script", ["train_old_arc.py", *(f"BCT_Methods/{name}/train.py" for name in (
    "MixBCT", "UniBCT", "NCCL", "BCT", "AdvBCT", "L2"))])
def test_help_lists_every_setting(script):
    """Those of configs/base.py and those of the method's own base.py: each with its default, its meaning and its values."""
    folder = ROOT / "BCT_Methods" / Path(script).parent.name / "configs"
    names = re.findall(r"^config\.(\w+) = ", (ROOT / "configs/base.py").read_text(), re.MULTILINE)
    own = re.findall(r"^    (\w+)=\w+\(", (folder / "base.py").read_text(), re.MULTILINE) if folder.is_dir() else []
    assert len(names) == 46 and (own != []) == folder.is_dir()
    code, said = start("--help", script=script)
    assert code == 0 and re.findall(r"^  ([a-z]\w+)=", said, re.MULTILINE) == names + own
    meaning = "learning rate for the recipe's 1024 images per step (batch_size x ranks); not scaled by itself"
    assert f"\n  lr=0.1\n      {meaning}\n      (a number above 0)\n" in said
    assert "MixBCT" not in script or "\n  mix_ratio=0.3\n      alpha: share of " in said


def test_a_base_file_that_does_not_run_is_named(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/base.py").write_text("config = dict(lr=numbr(0.1))")
    code, said = start(PLAIN, script=str(tmp_path / "train.py"))
    assert (code, said) == (1, f"error: {tmp_path}/configs/base.py does not run: NameError: name 'numbr' is not defined\n")
