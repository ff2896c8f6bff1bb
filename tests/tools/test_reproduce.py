"""Steps of a reproduction: what runs when, what is resumed, what is refused."""

import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tools.reproduce import steps
from tools.reproduce.steps import Step, run_steps
from utils.errors import UserError


def wait_for(found, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def shell(tmp_path):
    """Makes steps that append their name and first argument to a file; run() gives the names in their order."""
    class Shell:
        out, journal = tmp_path / "out", tmp_path / "journal"

        def step(self, name: str, *needs: str, then="true", settings=(), **more) -> Step:
            text = f'echo "{name} ${{@: -1}}" >> {self.journal}; {then}'
            return Step(name, ["bash", "-c", text, "bash", *settings, ""], needs, tmp_path, **more)

        def training(self, name: str, *needs: str, then="true", settings=(), **more) -> Step:
            return self.step(name, *needs, then=then, settings=settings, makes=self.out / name / "model.pt", trains=True, **more)

        def leave_an_epoch(self, training: Step) -> None:
            (training.checkpoints / "12").mkdir(parents=True, exist_ok=True)
            for file in (training.makes, training.checkpoints / "12/complete.json"):
                file.touch()

        def run(self, *steps: Step, cores=2) -> list[str]:
            self.journal.write_text("")
            try:
                run_steps(list(steps), self.out, 0, cores)
            finally:
                self.lines = [line.strip() for line in self.journal.read_text().splitlines()]
            return [line.split()[0] for line in self.lines]

        def fails(self, *steps: Step, sentence="failed") -> list[str]:
            with pytest.raises(UserError, match=sentence):
                self.run(*steps)
            return self.lines
    return Shell()


def test_a_step_runs_after_the_steps_that_it_needs_and_only_once(shell):
    steps = [shell.step("page", "new", "old", again=True), shell.step("new", "old", then="sleep 0.1"),
             shell.step("old", "elsewhere")]
    assert shell.run(*steps) == ["old", "new", "page"]
    assert shell.run(*steps) == ["page"]
    changed = shell.step("old", then="true ")                   # another command: this step and those that need it run again
    assert shell.run(steps[0], steps[1], changed) == ["old", "new", "page"]


def test_a_step_whose_result_is_gone_runs_again(shell):
    step = shell.step("features", then=f"touch {shell.out}/features.npy", makes=shell.out / "features.npy")
    after = shell.step("means", "features")
    assert shell.run(step, after) == ["features", "means"] and shell.run(step, after) == []
    step.makes.unlink()
    assert shell.run(step, after) == ["features", "means"]


def test_a_command_that_leaves_no_result_has_failed(shell):
    step = shell.step("features", makes=shell.out / "features.npy")
    for _ in range(2):
        assert shell.fails(step, sentence="exit code 0, no file .*/features.npy.; its output is in") == ["features"]


def test_a_failure_names_its_log_and_the_next_start_continues(shell):
    steps = [shell.step("good"), shell.step("bad", "good", then="echo no room; test -e fixed"), shell.step("last", "bad")]
    assert shell.fails(*steps, sentence="bad failed .exit code 1.; its output is in .*/log/bad.log") == ["good", "bad"]
    assert "no room" in (shell.out / "log/bad.log").read_text()
    (steps[0].folder / "fixed").touch()
    assert shell.run(*steps) == ["bad", "last"]


def test_trainings_run_at_the_same_time_and_a_failure_lets_the_other_one_end(shell, capfd):
    def meeting(name: str, other: str, then: str) -> Step:
        """Succeeds only if the other one has started before it ends."""
        met = f"for i in $(seq 1000); do grep -q {other} {shell.journal} && break; sleep 0.01; done"
        return shell.training(name, then=f"{met}; mkdir -p {shell.out}/{name}; touch {shell.out}/{name}/model.pt; {then}")

    slow = f"until test -e {shell.out}/steps/a.failed; do sleep 0.01; done"
    a, b = meeting("a", "b", f"touch {shell.out}/steps/a.failed; false"), meeting("b", "a", f"{slow}; sleep 0.3")
    assert sorted(shell.fails(a, b, sentence="a failed .exit code 1")) == ["a", "b"]
    assert "== a failed; b will end first" in capfd.readouterr().out
    assert shell.run(b) == []                                   # it was done


def test_a_training_resumes_from_its_checkpoint(shell):
    training = shell.training("BCT", then="test -e fixed")
    assert shell.fails(training) == ["BCT"]
    assert shell.fails(training) == ["BCT"]                     # started, but it left no checkpoint
    shell.leave_an_epoch(training)
    training.makes.unlink()                                     # stopped by a signal inside its first epoch
    assert shell.fails(training) == ["BCT resume=True"]
    shell.leave_an_epoch(training)
    assert shell.fails(training) == ["BCT resume=True"]
    (training.folder / "fixed").touch()
    assert shell.run(training) == ["BCT"] and shell.run(training) == []
    training.makes.unlink()                                     # resuming after the last epoch would not write it
    assert shell.fails(training, sentence="no file") == ["BCT"]


def test_a_training_on_new_features_starts_over(shell):
    """Its checkpoints were trained on the previous features; also if it is stopped before its first epoch."""
    training = shell.training("new", "old", then="false")
    shell.leave_an_epoch(training)                              # by a run that has no record
    for old, left, resumed in (("1", False, ""), ("1", True, " resume=True"), ("2", False, ""), ("2", False, "")):
        if left:
            shell.leave_an_epoch(training)
        assert shell.fails(shell.step("old", then=f": {old}"), training)[-1] == f"new{resumed}"
        assert training.has_checkpoint == left


def test_other_settings_are_refused_if_an_epoch_would_be_lost(shell):
    training = shell.training("BCT", then="false", settings=("lr=0.1", "num_epoch=2"))
    other = shell.training("BCT", then="false", settings=("lr=0.1", "num_epoch=3"))
    assert shell.fails(training) and shell.fails(other) == ["BCT"]          # no epoch yet
    assert shell.fails(training)
    shell.leave_an_epoch(training)
    sentence = r"BCT was trained with other settings \(then: num_epoch=2, now: num_epoch=3\); give another --out, or remove"
    assert shell.fails(other, sentence=sentence) == []
    order = shell.training("BCT", then="false", settings=("num_epoch=2", "lr=0.1"))
    assert shell.fails(order) == ["BCT resume=True"]
    shutil.rmtree(training.makes.parent)
    assert shell.fails(other) == ["BCT"]


def test_other_images_are_refused_if_an_epoch_would_be_lost_and_else_everything_runs_again(shell):
    steps = [shell.step("old"), shell.step("means", "old"), shell.training("BCT", "means", then="false")]
    one, other = ([replace(step, data=data) for step in steps] for data in ("one", "other"))
    assert shell.fails(*one) == ["old", "means", "BCT"] and shell.fails(*one) == ["BCT"]
    assert shell.fails(*other) == ["old", "means", "BCT"]                   # no epoch yet
    shell.leave_an_epoch(steps[2])
    assert shell.fails(*one, sentence="BCT was trained on another train.rec than today's; give another --out, or") == []
    assert shell.fails(*other) == ["BCT resume=True"]


def test_a_training_whose_images_are_not_known_is_refused_with_that_reason(shell):
    training = shell.training("BCT", then="false")              # as an earlier version noted it: without the images
    assert shell.fails(training) == ["BCT"]
    shell.leave_an_epoch(training)
    assert shell.fails(replace(training, data="one"), sentence="was trained by an earlier version, which did not note") == []


def test_the_running_command_of_a_killed_reproduction_is_waited_for(shell, monkeypatch):
    step = shell.step("old", then=f"echo $$ > {shell.journal}.pid; test -e fixed || exec sleep 20")
    reproduction = multiprocessing.get_context("fork").Process(target=shell.run, args=(step,))
    reproduction.start()
    pid = Path(f"{shell.journal}.pid")
    wait_for(lambda: pid.is_file() and pid.read_text().strip())
    os.kill(reproduction.pid, signal.SIGKILL)
    reproduction.join()
    monkeypatch.setattr(steps, "SECONDS_FOR_LOCK", 0)
    assert shell.fails(step, sentence=f"still writes to {shell.out}; wait until it has ended") == []
    (step.folder / "fixed").touch()
    os.kill(int(pid.read_text()), signal.SIGKILL)
    monkeypatch.setattr(steps, "SECONDS_FOR_LOCK", 10)
    assert shell.run(step) == ["old"]


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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_trainings_save_and_ends_within_seconds(shell, monkeypatch, number):
    """Two trainings run, a step waits for them; SIGINT, which Ctrl-C sends to each of them, too, does not end them."""
    then = ("kill -INT $$; trap 'echo saved >> " + f"{shell.journal}; exit 75' TERM; touch $0.$$; "
            "for k in $(seq 300); do sleep 0.1; done")
    both = [shell.training(name, then=then.replace("$0", f"{shell.journal}.{name}")) for name in ("BCT", "L2")]

    def run() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)        # the tests may run under nohup
        shell.run(*both, shell.step("compare", "BCT", "L2"))
    reproduction = multiprocessing.get_context("fork").Process(target=run)
    reproduction.start()
    wait_for(lambda: len(list(shell.journal.parent.glob(f"{shell.journal.name}.*"))) == 2)
    os.kill(reproduction.pid, number)
    reproduction.join(20)
    assert reproduction.exitcode == 1
    lines = [line.split()[0] for line in shell.journal.read_text().splitlines()]
    assert lines.count("saved") == 2 and "compare" not in lines
    monkeypatch.setattr(steps, "SECONDS_FOR_LOCK", 0)
    assert shell.run(shell.step("old")) == ["old"]
