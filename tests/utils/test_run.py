"""What the system refuses is a sentence; closed standard files and a disk that refuses the log are no reason to end."""

import errno
import logging
import os
import subprocess
import sys
from contextlib import suppress

import pytest

from utils.errors import UserError, sentence_of
from utils.logging import start_logging
from utils.paths import ROOT

SCRIPT = """
import os, sys
from utils.errors import UserError, run

def main():
    with open(sys.argv[1], "w") as file:
        print("a line for people")
        os.write(2, b"a library's message")
        sys.stderr.write("a warning")
        file.write(f"result {file.fileno() > 2}")
    if len(sys.argv) > 2:
        raise UserError("the end")
run(main)
"""


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "0<&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("error", [False, True])
def test_closed_standard_files_do_not_end_in_the_results(tmp_path, closed, error):
    """The first file that is opened would be number 2 otherwise, and hold what libraries print to stderr."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(["bash", "-c", f'exec "$@" {closed}', "-", sys.executable, tmp_path / "script.py", tmp_path / "result",
                           *(["end"] if error else [])], env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60)
    assert (tmp_path / "result").read_text() == "result True" and done.returncode == error


@pytest.mark.parametrize("number, name, words", [
    (errno.EMFILE, None, "too many open files: the limit is .*ulimit -n"),
    (errno.ENFILE, "a.rec", "too many open files for a.rec"), (errno.EACCES, "a.rec", "no permission for a.rec"),
    (errno.EPERM, "b.npy", "no permission for b.npy"),
    (errno.ENOSPC, "c.npy", "no room on the disk for c.npy"), (errno.EDQUOT, None, "no room on the disk [(]")])
def test_errors_of_the_system_are_sentences(number, name, words):
    with pytest.raises(UserError, match=words):
        raise UserError(sentence_of(OSError(number, os.strerror(number), name)))
    assert sentence_of(OSError(errno.EPIPE, "Broken pipe")) is None


@pytest.fixture
def line():
    """Writes a line to the project's log and removes its handlers."""
    yield lambda text: logging.getLogger("bct").info(text)
    for handler in list(logging.getLogger("bct").handlers):
        logging.getLogger("bct").removeHandler(handler)
        with suppress(OSError):         # the disk is still full
            handler.close()


def test_a_log_that_cannot_be_written_is_said_once(tmp_path, capsys, line):
    (tmp_path / "training.log").symlink_to("/dev/full")
    start_logging(0, str(tmp_path))
    for number in range(3):
        line(f"line {number}")
    said = capsys.readouterr().err
    assert said.count("warning: a line could not be written to ") == 1 and "No space left" in said and "line 2" in said


def test_a_log_that_cannot_be_opened_is_said_once(tmp_path, capsys, line):
    (tmp_path / "training.log").mkdir()
    start_logging(0, str(tmp_path))
    line("a line")
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path}/training.log cannot be written (Is a directory)") and "a line" in said


def test_a_name_that_is_not_utf8_and_a_terminal_that_was_closed(tmp_path, monkeypatch, line):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        start_logging(0, str(tmp_path))
        line("d\xfcrer and d\udcfcrer")
        monkeypatch.undo()
        try:
            closed.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    assert "d\xfcrer and d\\udcfcrer" in (tmp_path / "training.log").read_text(encoding="utf-8")
