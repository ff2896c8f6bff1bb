"""What ends a run: a signal, a rank that fails, hangs or differs, a loss that is not finite; and corrupt records, skipped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import start_script
from toy import write_records
from trainings import differences, free_port, join, newest_files, start

from records.recordio import RecordReader, RecordWriter
from utils.seed import generator

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_records(folder / "train_part_30_class", [9, 12, 7, 10, 11])
    return folder


def arguments(data: Path, output: Path, *more: str, epochs: int = 3) -> list[str]:
    return [str(ROOT / "configs/f512_r18_arc_class30.py"), f"dataset={data}", f"output={output}", "network=cnn_s",
            "image_size=16", "batch_size=4", f"num_epoch={epochs}", "workers=0", "val_targets=[]", "frequent=1", "lr=0.01",
            "lr_power=0", "resume=True", *more]


def wait_for(path: Path, words: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not (path.is_file() and words in path.read_text()):
        assert time.monotonic() < deadline, path.read_text() if path.is_file() else path
        time.sleep(0.01)


def log_of(folder: Path, rank: int = 0) -> str:
    return (folder / f"log_{rank}").read_text()


@pytest.mark.parametrize("ranks, number, more", [
    pytest.param(1, signal.SIGTERM, ["workers=1"], marks=pytest.mark.slow), (2, signal.SIGUSR1, ["gradient_acc=3"])])
def test_a_signal_saves_and_ends_with_code_75(ranks, number, more, data, tmp_path):
    """One rank and its workers get the signal; all ranks end after the same update, and the next run resumes there."""
    processes = start(arguments(data, tmp_path, *more, epochs=1000), None, ranks, folder=tmp_path)
    wait_for(tmp_path / "log_0", "step 3/")
    signalled = processes[-1].pid
    workers = Path(f"/proc/{signalled}/task/{signalled}/children").read_text().split()
    assert len(workers) == ("workers=1" in more)
    for pid in (*workers, signalled):
        os.kill(int(pid), number)
    assert join(processes, 60) == [75] * ranks
    assert f"stopped by {number.name}: {newest_files(tmp_path)[0].parent} is the last good checkpoint" in log_of(tmp_path)
    last_step = int(re.findall(r"  step (\d+)/", log_of(tmp_path))[-1])
    per_epoch = 49 // (4 * ranks)
    epoch = -(-(last_step + 1) // per_epoch) + 1
    assert join(start(arguments(data, tmp_path, *more, epochs=epoch), None, ranks, folder=tmp_path)) == [0] * ranks
    assert int(re.findall(r"  step (\d+)/", log_of(tmp_path))[0]) == last_step + 1
    assert join(start(arguments(data, tmp_path / "straight", *more, epochs=epoch), None, ranks)) == [0] * ranks
    for one, two in zip(newest_files(tmp_path), newest_files(tmp_path / "straight"), strict=True):
        assert differences(*(torch.load(path, weights_only=True) for path in (one, two))) == []


def test_a_second_training_in_the_same_folder_is_refused(data, tmp_path):
    first = start(arguments(data, tmp_path, epochs=1000), None, folder=tmp_path)
    wait_for(tmp_path / "log_0", "step 3/")
    (tmp_path / "second").mkdir()
    before = (tmp_path / "training.log").read_text()
    assert join(start(arguments(data, tmp_path, epochs=1000), None, 2, folder=tmp_path / "second")) == [1, 1]
    for rank in range(2):
        assert f"error: another training, or a process of a killed one, still writes to {tmp_path}; wait" in log_of(
            tmp_path / "second", rank)
    assert "images of" not in (tmp_path / "training.log").read_text().removeprefix(before)      # the second wrote nothing to it
    os.kill(first[0].pid, signal.SIGTERM)
    assert join(first, 60) == [75]


def test_different_settings_on_the_ranks_are_named(data, tmp_path):
    write_records(tmp_path / "other/train_part_30_class", [11, 12, 7, 10, 9])
    np.save(data / "feature.npy", np.ones((49, 8)))
    np.save(tmp_path / "other/feature.npy", np.zeros((49, 8)))
    (data / "mine.bin").write_bytes(b"on one rank only")
    more = {1: ["lr=0.02", f"dataset={tmp_path}/other", f"feature_save={tmp_path}/other"]}
    common = arguments(data, tmp_path, "old_feature=feature.npy", f"feature_save={data}", "val_targets=['mine']")
    assert join(start(common, None, 2, more=more, folder=tmp_path), 60) == [1, 1]
    last = log_of(tmp_path).splitlines()[-1]
    assert re.search("error: the ranks differ in lr: 0.01 on rank 0, 0.02 on rank 1; "
                     r"mine \(contents\): \w{12} on rank 0, no file on rank 1; "
                     r"old_feature \(contents\): \w{12} on rank 0, \w{12} on rank 1; records: ", last)


def test_a_rank_that_hangs_ends_the_others_in_time(data, tmp_path):
    processes = start(arguments(data, tmp_path, "timeout=0.1", epochs=1000), None, 2, folder=tmp_path)
    wait_for(tmp_path / "log_0", "step 3/")
    os.kill(processes[1].pid, signal.SIGSTOP)
    begin = time.monotonic()
    assert join(processes[:1], 60) == [1] and time.monotonic() - begin < 40
    processes[1].kill()
    assert "error: rank 0 lost the others" in log_of(tmp_path).splitlines()[-1]


HANGING = """
import os, time
from engine import trainer
from engine.loop import main
from utils.errors import UserError

original, rank = trainer.Trainer.step, os.environ["RANK"]
def step(self, *args):
    if args[4].step == 3 and rank == "1":
        time.sleep(2)
        raise UserError("the disk of rank one is broken")
    out = original(self, *args)
    if args[4].step == 2 and rank == "0":
        time.sleep(1000)
    return out
trainer.Trainer.step = step
main()
"""


def test_an_error_does_not_wait_for_a_rank_that_hangs(data, tmp_path):
    """The rank's part of a collective is under way when its error is raised, and the other rank does not answer."""
    (tmp_path / "train.py").write_text(HANGING)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                                "MASTER_PORT": str(free_port())}
    ranks = [start_script(tmp_path / "train.py", *arguments(data, tmp_path, "frequent=100", epochs=1000), cwd=tmp_path,
                          env=environment | {"RANK": str(rank)}, folder=tmp_path / f"rank_{rank}") for rank in range(2)]
    try:
        assert join(ranks[1:], 40) == [1]
        assert "error: the disk of rank one is broken" in (tmp_path / "rank_1/stderr").read_text()
    finally:
        join(ranks, 0)


def torchrun(folder: Path, script: Path, *arguments: str) -> tuple[subprocess.CompletedProcess, float]:
    """(completed process, its seconds) of a training on two ranks under torchrun."""
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", script,
                           *arguments], capture_output=True, text=True, timeout=180, cwd=folder,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    return done, time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_torchrun_passes_a_signal_on(number, data, tmp_path):
    with open(tmp_path / "log", "w") as file:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone",
             "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", ROOT / "train_old_arc.py",
             *arguments(data, tmp_path, epochs=1000)], stderr=file)
    wait_for(tmp_path / "log", "step 3/")
    launcher.send_signal(number)
    assert launcher.wait(60) == 1
    assert f"stopped by {number.name}: {newest_files(tmp_path)[0].parent} is the last good" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_ranks_save_and_end_after_their_torchrun_was_killed(data, tmp_path):
    """Nobody passes a signal on, and nobody answers to a rank that fails."""
    with open(tmp_path / "log", "w") as file:
        launcher = subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone",
                                     ROOT / "train_old_arc.py", *arguments(data, tmp_path, epochs=100_000)],
                                    stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})
    wait_for(tmp_path / "log", "step 3/")
    ranks = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    launcher.kill()
    launcher.wait()
    begin = time.monotonic()
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        assert time.monotonic() - begin < 60
        time.sleep(0.1)
    assert len(ranks) == 2 and f"stopped by SIGTERM: {newest_files(tmp_path)[0].parent} is" in (tmp_path / "log").read_text()
    print(f"{time.monotonic() - begin:.1f} s")


FAILING = """
import os, signal, sys
from engine import trainer
from engine.loop import main
from utils.errors import UserError

original = trainer.Trainer.step
def step(self, *args):
    if os.environ["RANK"] == "1" and args[4].step == 3:
        {harm}
    return original(self, *args)
trainer.Trainer.step = step
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("harm, words", [
    ('raise UserError("the disk of rank one is broken")', "UserError: the disk of rank one is broken"),
    pytest.param("os.kill(os.getpid(), signal.SIGKILL)", r"Signal 9 \(SIGKILL\) received by PID")])
def test_a_failing_rank_ends_all_and_torchrun_shows_its_error(harm, words, data, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(FAILING.format(harm=harm))
    done, seconds = torchrun(tmp_path, script, *arguments(data, tmp_path, epochs=1000))
    root = done.stderr.split("Root Cause (first observed failure)")[-1]
    assert done.returncode == 1 and seconds < 60
    assert re.search(r"rank +: 1 ", root) and re.search(words, root), done.stderr
    print(f"{seconds:.1f} s with the start")


def test_a_loss_that_is_not_finite_names_its_term_step_and_images(data, tmp_path):
    more = ["lr=1e30", "lr_power=0", "clip=1e30", "frequent=4", "save_every=5", "workers=2"]    # loader processes must end, too
    assert join(start(arguments(data, tmp_path, "num_epoch=1"), None)) == [0]
    assert join(start(arguments(data, tmp_path, *more), None, folder=tmp_path)) == [1]
    *_, images, last = log_of(tmp_path).splitlines()
    step = int(re.search(r"since step (\d+)", last).group(1))
    assert "the loss is not finite (cls = nan)" in last and f"{tmp_path}/checkpoints/49 is the last good checkpoint" in last
    named = json.loads(images.partition(f"images of step {step}: ")[2])
    order = torch.randperm(49, generator=generator(666, "order", 1)).tolist()
    assert named == order[4 * (step - 13):4 * (step - 12)]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["49"]


def test_ranks_that_replace_corrupt_records_stay_in_step(data, tmp_path):
    """Any rank may replace them: two ranks end with the same bits as on a file that holds the replacements."""
    reader, replaced = RecordReader(data / "train_part_30_class"), {2: 3, 30: 31, 49: 1}
    for kind in ("corrupt", "replaced"):
        (tmp_path / kind).mkdir()
    with RecordWriter(tmp_path / "replaced/train_part_30_class") as good, RecordWriter(
            tmp_path / "corrupt/train_part_30_class") as bad:
        for key in range(50):
            good.write(key, reader.read(replaced.get(key, key)))
            bad.write(key, reader.read(key)[:40] if key in replaced else reader.read(key))
    for kind in ("corrupt", "replaced"):
        common = arguments(tmp_path / kind, tmp_path / kind, "bad_records=skip", f"workers={int(kind == 'corrupt')}", epochs=2)
        assert join(start(common, None, 2, folder=tmp_path / kind)) == [0, 0], log_of(tmp_path / kind)
    assert len(re.findall("  step ", log_of(tmp_path / "corrupt"))) == 2 * 6
    assert re.search("[2-6] of 96 images had a corrupt record", log_of(tmp_path / "corrupt"))
    for one, two in zip(newest_files(tmp_path / "corrupt"), newest_files(tmp_path / "replaced"), strict=True):
        assert differences(*(torch.load(path, weights_only=True) for path in (one, two))) == []
