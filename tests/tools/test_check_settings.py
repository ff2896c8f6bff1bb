"""The check before a training: rows on the settings, the training script and the folder of the run."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from toy import write_records

from engine.loop import main
from engine.parts import new_backbone
from losses import SoftmaxHead
from records.facts import Facts
from tools.check.report import Report
from tools.check.setting_rows import classes_of, read_settings, script_of
from utils.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SD = "f128_r18_softmax_class70"
OLD = ("configs/f128_r18_softmax_class30.py", "rec=train_part_70_class", "old_model=None")
SMALL = ["network=mbf", "image_size=16", "batch_size=4", "val_targets=['lfw']"]
CONFIG = "BCT_Methods/{0}/configs/OPclass_ms1mv3_r18_to_r50_{0}_softmax_to_arc_f128.py"


@pytest.mark.long
def test_every_config_that_comes_with_the_project():
    """Its script, method and head are found, and its settings are right."""
    configs = [p for pattern in ("configs/*.py", "BCT_Methods/*/configs/*.py") for p in ROOT.glob(pattern) if p.stem != "base"]
    assert len(configs) > 60
    for path in configs:
        report = Report()
        method, head = classes_of(script_of(path))
        cfg = read_settings(path, [], report)
        new_backbone(cfg, device="meta")
        old = path.parent == ROOT / "configs"
        assert report.rows == [] and method.__name__ == ("Method" if old else path.parents[1].name), path
        assert head.__name__ == ("SoftmaxHead" if old and "softmax" in path.stem else "PartialFC"), path


def test_settings(run_check, check_folder):
    rows, _ = run_check(check_folder, CONFIG.format("MixBCT"), "batchsize=3", "dali=True", "optimizer=lion", "lr=fast",
                        "frequent=0", "margin_list=(2.0,0.5,0.0)", "network=r19")
    said = " ".join(found for _, found in rows["settings"])
    for part in ("did you mean config.batch_size", "config.dali", '"sgd" or "adamw"', "config.lr = 'fast'", "config.frequent = 0",
                 "expected m1 = 1", "did you mean r18"):
        assert part in said, part
    assert len(rows["settings"]) == 7 and {verdict for verdict, _ in rows["settings"]} == {"wrong"}
    assert rows["credible"][0][0] == "ok" and "GPU memory" not in rows      # the rest is checked all the same


@pytest.mark.long
def test_settings_that_end_a_training_later(run_check, wrong, check_copy):
    rows, _ = run_check(check_copy, CONFIG.format("MixBCT"), "workers=-1", "timeout=0", "save_every=None", "decay_epoch=5",
                  "keep_checkpoints=1.5", "seed=-1", "val_targets=lfw", "sample_rate=None")
    said = " ".join(found for _, found in rows["settings"])
    for part in ("workers = -1", "timeout = 0", "save_every = None", "decay_epoch = 5", "keep_checkpoints = 1.5",
                 "seed = -1", "config.val_targets = 'lfw'", "sample_rate = None"):
        assert part in said, part
    (check_copy / "file").touch()
    assert "cannot write" in wrong(run_check(check_copy, CONFIG.format("MixBCT"), f"output={check_copy / 'file'}")[0])["output"]
    (check_copy / "out/checkpoints/40").mkdir(parents=True)
    (check_copy / "out/checkpoints/40/complete.json").touch()
    assert "add resume=True" in wrong(run_check(check_copy, CONFIG.format("MixBCT"))[0])["output"]
    assert "no checkpoint is intact" in wrong(run_check(check_copy, CONFIG.format("MixBCT"), "resume=True")[0])["output"]


def test_settings_that_do_not_work_together(run_check, wrong, check_folder):
    """Each combination is a row; settings that fit each other only together are accepted, whatever the others are."""
    rows, _ = run_check(check_folder, CONFIG.format("MixBCT"), "sample_rate=0.5", "gradient_acc=2", "margin_list=(2.0,0.5,0.0)",
                        "warmup_epoch=40", "num_epoch=50")
    assert sorted(found.split(":")[0].split(" samples")[0] for _, found in rows["settings"]) == [
        "config.margin_list = (2.0, 0.5, 0.0)", "config.sample_rate = 0.5"]
    rows, end = run_check(check_folder, CONFIG.format("MixBCT"), "warmup_epoch=40", "num_epoch=50")
    assert end is None and "settings" not in rows
    rows, _ = run_check(check_folder, *OLD, "sample_rate=0.5")
    assert "softmax head uses all classes" in wrong(rows)["settings"]


def test_each_wrong_value_of_a_config_file_is_a_row(run_check, check_folder, tmp_path):
    (tmp_path / "mine.py").write_text("from easydict import EasyDict as edict\n"
                                      "config = edict(lr='fast', batchsize=3, workers=-1, network='r18')\n")
    rows, end = run_check(check_folder, str(tmp_path / "mine.py"))
    assert [verdict for verdict, _ in rows["settings"]] == ["wrong"] * 3 and list(rows) == ["settings"]
    assert end == "3 of 3 rows are missing or wrong: see the table"


@pytest.mark.long
def test_a_training_that_would_not_learn(run_check, wrong, check_copy):
    """One identity only, and fewer steps than are added up to an update."""
    found = wrong(run_check(check_copy, *OLD, "gradient_acc=11", "num_epoch=2")[0])
    assert set(found) == {"step"} and "10 steps, fewer than config.gradient_acc = 11" in found["step"]
    assert run_check(check_copy, *OLD, "gradient_acc=10", "num_epoch=2")[1] is None
    write_records(check_copy / "data/train_part_70_class", [9])
    for settings in ([], ["num_classes=5"]):
        assert "one identity" in wrong(run_check(check_copy, *OLD, *settings)[0])["classes"]


@pytest.mark.long
def test_a_checkpoint_to_resume_from(check_copy, monkeypatch, run_check, wrong):
    """One of another training, or a corrupt one, is refused as the training would refuse it."""
    arguments = [str(ROOT / "configs/f128_r18_softmax_class30.py"), f"dataset={check_copy / 'data'}", "rec=train_part_70_class",
                 *SMALL, f"output={check_copy / 'out'}", "num_epoch=1"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    main(head=SoftmaxHead)
    dist.destroy_process_group() if dist.is_initialized() else None
    how = (*OLD, "resume=True")
    assert run_check(check_copy, *how)[0]["output"][0][0] == "ok"
    found = wrong(run_check(check_copy, *how, "seed=1", "optimizer=adamw")[0])
    assert "optimizer was 'sgd', is 'adamw'; seed was 666, is 1" in found["output"]
    file = next((check_copy / "out/checkpoints").glob("*/rank_0.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert "no checkpoint is intact" in wrong(run_check(check_copy, *how)[0])["output"]


GUARD = 'if __name__ == "__main__":\n    main(METHOD)\n'


@pytest.mark.parametrize("ending, words", [
    ("METHOD = Mine\n" + GUARD, None),
    ("METHOD, HEAD = Mine, SoftmaxHead\n" + GUARD, None),
    ("METHOD = Mine\nmain(METHOD)\n", "starts a training whenever it is read"),
    ('if __name__ == "__main__":\n    main(Mine)\n', "expected METHOD, a class derived from Method, found None"),
    ("METHOD = Mine()\n" + GUARD, "TypeError"),
    ("METHOD, HEAD = Mine, Mine\n" + GUARD, "expected HEAD, a class derived from PartialFC, found <class"),
])
def test_a_script_of_the_users_own(run_check, wrong, check_folder, tmp_path, ending, words):
    """It ends as CONTRIBUTING.md shows; each other ending is refused with the right one, and trains nothing."""
    (tmp_path / "mine.py").write_text("from engine.loop import main\nfrom engine.method import Method\n"
                                      f"from losses import SoftmaxHead\nclass Mine(Method):\n    pass\n{ending}")
    rows, end = run_check(check_folder, CONFIG.format("L2"), "--script", str(tmp_path / "mine.py"))
    if words is None:
        assert end is None and "Mine, trained by" in rows["config"][0][1] and "old_feature" not in rows
        assert classes_of(tmp_path / "mine.py")[1].__name__ == ("SoftmaxHead" if "HEAD" in ending else "PartialFC")
    else:
        assert set(wrong(rows)) == {"method"} and words in wrong(rows)["method"]
        assert words == "TypeError" or "main(METHOD)" in wrong(rows)["method"]


def test_the_example_of_a_method(run_check, check_folder, tmp_path):
    """It is a complete script after the imports of L2, and its term is 10 times the mean distance to the old features."""
    example = re.search(r"```python\n(class Towards.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[1]
    imports = (ROOT / "BCT_Methods/L2/train.py").read_text().split("\n\n\nclass ")[0]
    script = tmp_path / "train.py"
    script.write_text(f"{imports}\n\n\n{example}")
    rows, end = run_check(check_folder, CONFIG.format("L2"), "--script", str(script))
    assert end is None and "Towards, trained by" in rows["config"][0][1] and "old_feature" in rows

    method = classes_of(script)[0](Settings(embedding_size=128, old_feature=f"OPclass/{SD}_feature.npy", old_model=None,
                                            feature_save=str(check_folder / "save")), Facts(41, 5))
    index, new = torch.tensor([3, 40]), torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    old = np.load(check_folder / f"save/OPclass/{SD}_feature.npy")[index].astype(float)
    expected = 10 * np.mean([np.linalg.norm(n / np.linalg.norm(n) - o / np.linalg.norm(o))
                             for n, o in zip(new.double().numpy(), old, strict=True)])
    terms = method(lambda new, labels: labels.sum(), new, torch.tensor([1, 2]), index, None)
    assert terms["cls"] == 3 and terms["old"].item() == pytest.approx(expected, rel=1e-5)


def test_a_script_that_is_not_a_training(run_check, wrong, check_folder):
    for script, words in (("utils/seed.py", "expected METHOD"), ("nothing.py", "no file")):
        assert words in wrong(run_check(check_folder, CONFIG.format("L2"), "--script", str(ROOT / script))[0])["method"]
