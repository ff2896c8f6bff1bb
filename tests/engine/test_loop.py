"""A training on a toy set: its loss falls, it repeats and resumes bit for bit, and mistakes end with one sentence."""

import re
from pathlib import Path

import pytest
import torch
from toy_loop import COUNTS, train, write_data

from losses import PartialFC
from records.recordio import RecordReader


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def losses(done: tuple[int, str]) -> list[float]:
    """The loss of each step of a training that succeeded."""
    assert done[0] == 0, done[1]
    return [float(x) for x in re.findall(r"  loss ([\d.]+)", done[1])]


def weights(output: Path) -> dict:
    return torch.load(output / "model.pt", weights_only=True)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory) -> tuple[Path, list[float]]:
    output = tmp_path_factory.mktemp("straight")
    return output, losses(train(data, output, "num_epoch=4"))


@pytest.mark.long
def test_the_loss_falls_and_the_files_are_written(straight):
    output, loss = straight
    assert len(loss) == 4 * (sum(COUNTS) // 8)
    assert sum(loss[-6:]) < 0.6 * sum(loss[:6])
    assert {p.name for p in output.iterdir()} == {"model.pt", "softmax_fc_gpu_0.pt", "checkpoints",
                                                  "training.log", "tensorboard", "lock"}
    head = torch.load(output / "softmax_fc_gpu_0.pt", weights_only=True)
    assert head["weight"].shape == (5, 128) and head["bias"].shape == (5,) and head["num_classes"] == 5
    assert all(key.split(".")[0] in ("conv1", "bn1", "prelu", "layer1", "layer2", "layer3", "layer4", "bn2", "fc",
                                     "features") for key in weights(output))


@pytest.mark.long
def test_any_number_of_workers_gives_the_same_bits(straight, data, tmp_path):
    losses(train(data, tmp_path, "num_epoch=4", "workers=3"))
    expected = weights(straight[0])
    assert all(torch.equal(value, expected[key]) for key, value in weights(tmp_path).items())


@pytest.mark.long
def test_a_resumed_run_equals_the_straight_one(data, tmp_path):
    """Two epochs and, after a stop, two more; with a constant learning rate both runs have the same schedule."""
    losses(train(data, tmp_path / "half", "num_epoch=2", "lr_power=0"))
    losses(train(data, tmp_path / "half", "num_epoch=4", "lr_power=0", "resume=True"))
    losses(train(data, tmp_path / "whole", "num_epoch=4", "lr_power=0"))
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(value, expected[key]) for key, value in weights(tmp_path / "half").items())


@pytest.mark.long
def test_a_run_that_skips_bad_records(straight, data, tmp_path):
    """Every epoch has all its batches, any number of workers gives the same bits, and the log counts replaced images."""
    for end in (".idx", ".rec"):
        content = bytearray((data / f"train_part_30_class{end}").read_bytes())
        if end == ".rec":
            reader = RecordReader(data / "train_part_30_class")
            for key in (3, 30):
                offset = int(reader.offsets[reader.row(key)])
                content[offset + 40:offset + 60] = bytes(20)
        (tmp_path / f"train_part_30_class{end}").write_bytes(content)
    code, log = train(tmp_path, tmp_path / "stop")
    assert code == 1 and re.search("record (3|30) at byte", log.splitlines()[-1])
    for workers in (0, 2):
        loss = losses(train(tmp_path, tmp_path / str(workers), "bad_records=skip", f"workers={workers}"))
        assert len(loss) == 2 * (sum(COUNTS) // 8)
    one, two = (weights(tmp_path / workers) for workers in "02")
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    log = (tmp_path / "2/training.log").read_text()
    assert "record 3 at byte" in log and re.search(r"[1-4] of 96 images had a corrupt record and were replaced", log)
    losses(train(data, tmp_path / "good", "bad_records=skip"))
    assert "0 of 96 images had a corrupt record" in (tmp_path / "good/training.log").read_text()


@pytest.mark.long
def test_gradient_accumulation_and_sampling_run(data, tmp_path):
    assert losses(train(data, tmp_path / "a", "gradient_acc=2"))
    assert losses(train(data, tmp_path / "b", "sample_rate=0.5", head=PartialFC))
    assert losses(train(data, tmp_path / "c", "optimizer=adamw", "sample_rate=0.5", head=PartialFC))
    assert losses(train(data, tmp_path / "d", "rec=synthetic", "num_image=32", "num_classes=4"))


@pytest.mark.parametrize("settings, words", [
    (["dali=True"], "config.dali = True is not supported"),
    (["sample_rate=0.5", "gradient_acc=2"], "set one of them to 1"),
    (["network=r19"], "r18"),
    (["bad_records=ignore"], 'config.bad_records = \'ignore\' in the command line: expected "stop" or "skip"'),
    (["optimizer=lion"], 'expected "sgd" or "adamw"'),
    (["rec=train_part_70_class"], "train_part_70_class"),
    (["batch_size=500"], "500"),
    (["lr=1e20"], "the loss is not finite"),
    (["keep_checkpoints=0"], "config.keep_checkpoints = 0 in the command line: expected a whole number from 1 up"),
    (["save_every=0.5"], "config.save_every = 0.5 in the command line: expected a whole number from 0 up"),
])
def test_mistakes_end_with_one_sentence(data, tmp_path, settings, words):
    code, log = train(data, tmp_path, *settings)
    last = log.strip().splitlines()[-1]
    assert code == 1 and last.startswith("error: ") and words in last and "Traceback" not in log


def test_config_num_classes_counts_with_a_warning_if_it_differs(data, tmp_path):
    code, log = train(data, tmp_path, "num_classes=9", "num_epoch=1")
    assert code == 0 and "config.num_classes = 9" in log
    assert torch.load(tmp_path / "softmax_fc_gpu_0.pt", weights_only=True)["weight"].shape == (9, 128)


def test_a_label_beyond_config_num_classes_names_its_record(data, tmp_path):
    code, log = train(data, tmp_path, "num_classes=3", "num_epoch=1")
    assert code == 1 and "record" in log.splitlines()[-1] and "label" in log.splitlines()[-1]
