"""Checkpoints: a resumed run equals the straight one bit for bit; corrupt or foreign files are refused by name."""

import errno
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy import write_records
from toy_loop import COUNTS, Killed, kill_after, newest, train, write_data
from trainings import differences

from engine.checkpoint import Checkpoints
from engine.checkpoint_files import Position, found_in, last_words, why_not
from engine.model_files import Hashed, save_whole, whole_classifier
from engine.signals import StopSignal
from engine.trainer import Trainer
from losses import ArcFace, PartialFC, SoftmaxHead
from records.facts import Facts
from utils.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.long
@pytest.mark.parametrize("settings, head", [
    (["dropout=0.2"], SoftmaxHead),
    pytest.param(["optimizer=adamw", "sample_rate=0.5"], PartialFC, marks=pytest.mark.slow),
    pytest.param(["sample_rate=0.5"], PartialFC, marks=pytest.mark.slow),
    (["gradient_acc=4"], PartialFC)])
def test_a_run_resumed_inside_an_epoch_equals_the_straight_one(settings, head, data, tmp_path, monkeypatch):
    """Six steps an epoch; saved after steps 2, 4, 6 (the epoch), 8 ..., with four steps to an update after 4, 8, 12."""
    settings = [*settings, "network=cnn_s", "save_every=2", "num_epoch=3"]
    assert train(data, tmp_path / "whole", *settings, head=head)[0] == 0
    for steps in (3, 6, 5):                 # the second kill comes before step 9, or 11
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, steps)
            train(data, tmp_path / "half", *settings, "resume=True", head=head)
        torch.distributed.destroy_process_group()
        torch.manual_seed(steps)            # another process would have another random state
    code, log = train(data, tmp_path / "half", *settings, "resume=True", head=head)
    assert code == 0 and "resumed from" in log
    assert differences(newest(tmp_path / "half"), newest(tmp_path / "whole")) == []
    assert {p.name for p in (tmp_path / "half/checkpoints").iterdir()} == {
        p.name for p in (tmp_path / "whole/checkpoints").iterdir()}


@pytest.mark.long
def test_a_checkpoint_is_not_overwritten_or_ignored_silently(data, tmp_path):
    code, log = train(data, tmp_path, "resume=True", "num_epoch=1")
    assert code == 0 and "no checkpoint in" in log and "starts from the beginning" in log
    before = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").unlink(), flip(tmp_path / "softmax_fc_gpu_0.pt")
    code, log = train(data, tmp_path, "num_epoch=1", "resume=True")            # the same command writes lost files again
    assert code == 0 and "all 1 epochs are done: the model is written again" in log
    assert (tmp_path / "model.pt").read_bytes() == before and len(whole_classifier(tmp_path)["weight"]) == 5
    code, log = train(data, tmp_path, "num_epoch=1")
    assert code == 1 and "add resume=True to resume from it, give another output=FOLDER, or remove" in log.splitlines()[-1]
    assert "ended: " in (log := (tmp_path / "training.log").read_text()).splitlines()[-1] and "add resume=True" in log
    assert (tmp_path / "model.pt").read_bytes() == before
    code, log = train(data, tmp_path, "num_epoch=2", "lr=0.01", "resume=True")
    assert code == 0 and "config.lr was 0.02, is 0.01" in log and "config.num_epoch was 1, is 2" in log
    write_records(tmp_path / "other/train_part_30_class", COUNTS[::-1])
    code, log = train(tmp_path / "other", tmp_path, "resume=True")
    assert code == 1 and "is of another training (records was" in log.splitlines()[-1]
    code, log = train(data, tmp_path, "optimizer=adamw", "seed=1", "resume=True")
    assert code == 1 and "(optimizer was 'sgd', is 'adamw'; seed was 666, is 1); give the settings it was saved with" in log
    code, log = train(data, tmp_path, "embedding_size=64", "resume=True")
    assert code == 1 and "does not fit this config" in log and "settings that differ: embedding_size" in log.splitlines()[-1]


# Without a training: a small trainer that saves when the test says so

def make(output: Path, ranks, **more) -> tuple[Checkpoints, list[str]]:
    """(checkpoints of a small trainer, their log lines)"""
    cfg = SimpleNamespace(output=str(output), resume=True, save_every=0, keep_checkpoints=2, num_image=100, num_epoch=9,
                          optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.0, fp16=False, clip=5.0, gradient_acc=1)
    cfg.__dict__.update(more)
    method = torch.nn.Module()
    method.register_buffer("note", torch.zeros(3))
    trainer = Trainer(cfg, ranks, torch.nn.Linear(4, 3), method, PartialFC(ArcFace(), 3, 5))
    lines = []
    log = SimpleNamespace(info=lambda text, *values: lines.append(text % values))
    log.warning = log.info
    return Checkpoints(cfg, Facts(100, 5), ranks, trainer, {"seed": "1"}, StopSignal(), log), lines


def save(checkpoints: Checkpoints, images: int) -> None:
    checkpoints.trainer.plain_method.note.fill_(images)
    checkpoints.save(Position(0, images))


def test_the_newest_are_kept(one_rank, tmp_path):
    checkpoints, _ = make(tmp_path, one_rank, keep_checkpoints=2)
    for images in (8, 16, 100, 24):
        save(checkpoints, images)
        part = tmp_path / "checkpoints/99/rank_0.pt.0badc0de.part"  # left by a kill; the next save removes it
        part.parent.mkdir(), part.touch()
    part.parent.rename(tmp_path / "aside")
    assert found_in(tmp_path / "checkpoints").keys() == {"16", "24", "100"}     # 100: of a run that was longer


def test_every_truncation_is_refused_and_the_one_before_is_used(one_rank, tmp_path):
    checkpoints, _ = make(tmp_path, one_rank)
    save(checkpoints, 8), save(checkpoints, 16)
    refused = 0
    for name in ("rank_0.pt", "complete.json"):
        path = tmp_path / "checkpoints/16" / name
        whole = path.read_bytes()
        for twentieth in range(20):
            path.write_bytes(whole[:len(whole) * twentieth // 20])
            again, lines = make(tmp_path, one_rank)
            assert again.resume() == Position(0, 8) and again.trainer.plain_method.note.tolist() == [8, 8, 8]
            assert f"{tmp_path}/checkpoints/16 is not used, and is renamed to 16_damaged" in lines[0], lines
            assert str(path) in lines[0], lines
            (tmp_path / "checkpoints/16_damaged").rename(path.parent)
            refused += 1
        path.write_bytes(whole)
    assert refused == 40
    assert make(tmp_path, one_rank)[0].resume() == Position(0, 16)


@pytest.mark.parametrize("harm, words", [
    (lambda folder: flip(folder / "rank_0.pt"), "rank_0.pt is not the file that was written"),
    (lambda folder: (folder / "rank_0.pt").unlink(), "rank_0.pt cannot be read .No such file"),
    (lambda folder: (folder / "complete.json").write_text("[1]"), "complete.json is corrupt or was not written"),
    (lambda folder: (folder / "complete.json").write_text(json.dumps({"world_size": 10**9})), "complete.json is corrupt"),
])
def test_a_foreign_file_is_refused(harm, words, one_rank, tmp_path):
    checkpoints, _ = make(tmp_path, one_rank)
    save(checkpoints, 8), save(checkpoints, 16)
    harm(tmp_path / "checkpoints/16")
    again, lines = make(tmp_path, one_rank)
    assert again.resume() == Position(0, 8)
    assert re.search(words, lines[0])
    assert last_words(tmp_path) == f"{tmp_path}/checkpoints/8 is the last good checkpoint"
    save(again, 12)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"8", "12", "16_damaged"}     # two intact ones
    shutil.rmtree(tmp_path / "checkpoints/12")
    shutil.copy(tmp_path / "checkpoints/16_damaged/complete.json", tmp_path / "checkpoints/8/complete.json")
    flip(tmp_path / "checkpoints/8/rank_0.pt")
    with pytest.raises(UserError, match="no checkpoint in .* is intact"):
        make(tmp_path, one_rank)[0].resume()


def flip(path: Path) -> None:
    """Change one bit in the middle of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_file_that_cannot_be_written_leaves_the_former_one(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    first = save_whole({"weight": torch.ones(3)}, path)
    assert why_not(path, first) is None and first["bytes"] == path.stat().st_size

    def full(hashed, data):
        hashed.error = OSError(errno.ENOSPC, "No space left on device")
        raise hashed.error
    monkeypatch.setattr(Hashed, "write", full)
    with pytest.raises(OSError, match="No space left"):
        save_whole({"weight": torch.zeros(3)}, path)
    assert why_not(path, first) is None and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of a given size in bytes; it skips the test if mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int, *options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}"]), "tmpfs", folder],
                              capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        return folder
    yield mount
    subprocess.run(["umount", "--lazy", folder], capture_output=True)


@pytest.mark.long
def test_a_full_disk_leaves_the_last_good_checkpoint(data, tmp_path, small_disk):
    """With room for three checkpoints and a part of the fourth; with more room the run resumes and equals the straight one."""
    settings = ["network=cnn_s", "num_epoch=3", "save_every=2", "keep_checkpoints=9"]
    assert train(data, tmp_path / "whole", *settings)[0] == 0
    size = {name: sum(file.stat().st_size for file in (tmp_path / "whole").glob(name))
            for name in ("checkpoints/16/*", "*.pt", "tensorboard/*")}
    for part in (0.2, 0.9):
        output = small_disk(int(sum(size.values()) + (2 + part) * size["checkpoints/16/*"]))
        code, log = train(data, output, *settings)
        last = log.splitlines()[-1]
        assert code == 1 and "No space left on device" in last and f"{output}/checkpoints/49 is the last good" in last, log
        assert {path.name for path in (output / "checkpoints").iterdir()} == {"16", "32", "49"}
        assert not list(output.rglob("*.part"))
        small_disk(10**9, "remount")
        assert train(data, output, *settings, "resume=True")[0] == 0
        assert differences(newest(output), newest(tmp_path / "whole")) == []
        subprocess.run(["umount", "--lazy", output], check=True)


def test_weights_that_are_not_finite_are_not_saved(one_rank, tmp_path):
    checkpoints, _ = make(tmp_path, one_rank)
    save(checkpoints, 8)
    with torch.no_grad():
        checkpoints.trainer.head.weight[3, 1] = torch.inf
    with pytest.raises(UserError, match=r"head/weight is not finite.*checkpoints/8 is the last good checkpoint"):
        save(checkpoints, 16)
    assert found_in(tmp_path / "checkpoints").keys() == {"8"}
