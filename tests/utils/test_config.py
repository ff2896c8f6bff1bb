"""Configs merge in order, refuse near misses by name, and load the public full-length style."""

import pytest

from utils.config import load_config
from utils.errors import UserError
from utils.paths import locate


def write(tmp_path, text: str, name: str = "mine.py") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_order(tmp_path):
    write(tmp_path, "config = dict(lr=0.2, mix_ratio=0.3, momentum=0.8)", "base.py")
    path = write(tmp_path, "config = dict(lr=0.3)")
    cfg = load_config(path, ["momentum=0.7", "rec=some/where", "decay_epoch=[3, 5]"])
    assert (cfg.lr, cfg.mix_ratio, cfg.momentum, cfg.rec, cfg.decay_epoch) == (0.3, 0.3, 0.7, "some/where", [3, 5])
    assert cfg.num_epoch == 35 and cfg.name == "mine" and cfg.output.endswith("work_dirs/mine")


def test_public_style(tmp_path):
    cfg = load_config(write(tmp_path, """
from easydict import EasyDict as edict
config = edict()
config.network = "r50"
config.resume = False
config.output = None
config.embedding_size = 128
config.sample_rate = 1.0
config.fp16 = True
config.momentum = 0.9
config.weight_decay = 5e-4
config.batch_size = 128
config.lr = 0.1
config.verbose = 2000
config.dali = False
config.seed = 666
config.margin_list = (1.0, 0.5, 0.0)
config.rec = "../../dataset/ms1m-retinaface-t1"
config.num_classes = 93431
config.num_image = 5179510
config.num_epoch = 35
config.warmup_epoch = 0
config.val_targets = ["lfw", "cfp_fp", "agedb_30"]
"""))
    assert (cfg.num_classes, cfg.embedding_size, cfg.lr) == (93431, 128, 0.1)


def test_near_miss_is_named(tmp_path):
    with pytest.raises(UserError, match="unknown key config.batchsize .* did you mean config.batch_size"):
        load_config(write(tmp_path, "config = dict(batchsize=3)"))
    with pytest.raises(UserError, match="did you mean config.num_epoch"):
        load_config(write(tmp_path, "config = dict()"), ["num_epochs=3"])


def test_unknown_key_is_warned_about(tmp_path, caplog):
    assert load_config(write(tmp_path, "config = dict(zebra=3)")).zebra == 3
    assert "config.zebra" in caplog.text


@pytest.mark.parametrize("text, words", [
    ("x = 1", "defines no `config`"), ("config = 3", "defines no `config`"), ("config = dict(", "does not run"),
    ("import nowhere", "does not run: ModuleNotFoundError"),
])
def test_broken_files(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        load_config(write(tmp_path, text))


def test_missing_file_and_bad_override(tmp_path):
    with pytest.raises(UserError, match="no config file"):
        load_config(str(tmp_path / "none.py"))
    with pytest.raises(UserError, match="expected KEY=VALUE"):
        load_config(write(tmp_path, "config = dict()"), ["lr"])


def test_locate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("train", "data").as_posix() == "data/train"
    (tmp_path / "train.rec").touch()
    assert locate("train", "data").as_posix() == "train"
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.rec").touch()
    assert locate("train", "data").as_posix() == "data/train"       # the folder that was given comes first
    assert locate("/x/train", "data").as_posix() == "/x/train"


def test_the_command_line_knows_no_unknown_key_and_no_words_for_numbers(tmp_path):
    """A setting that nothing reads would train for days with the default."""
    (tmp_path / "mine.py").write_text("from easydict import EasyDict as edict\nconfig = edict()\n")
    with pytest.raises(UserError, match="unknown key config.epochs in the command line"):
        load_config(str(tmp_path / "mine.py"), ["epochs=8"])
    with pytest.raises(UserError, match="config.batch_size = 'four' in the command line: expected a whole number from 2 up"):
        load_config(str(tmp_path / "mine.py"), ["batch_size=four"])
    assert load_config(str(tmp_path / "mine.py"), ["dataset=dataset/mine"]).dataset.endswith("/dataset/mine")
