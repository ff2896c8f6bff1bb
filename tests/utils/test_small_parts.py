"""Small parts that everything stands on: how errors end a script, what is logged where, draws, network input, names beside."""

import argparse
import errno
import json
import logging

import numpy as np
import pytest
import torch

from backbones import get_model
from backbones.weights import load_model
from records.images import to_input
from utils.command_line import Parser, at_least, make_folder
from utils.errors import UserError, run
from utils.files import free_space, whole_file, written_beside
from utils.logging import errors_in_log, start_logging
from utils.seed import generator


def raising(error: Exception):
    def main():
        raise error
    return main


def test_a_users_mistake_ends_with_a_sentence_and_code_1(capsys):
    with pytest.raises(SystemExit) as end:
        run(raising(UserError("a sentence")))
    assert end.value.code == 1 and capsys.readouterr().err == "error: a sentence\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_with_a_sentence(capsys, number):
    with pytest.raises(SystemExit) as end:
        run(raising(OSError(number, "full", "some/file")))
    assert end.value.code == 1 and capsys.readouterr().err.startswith("error: no room on the disk for some/file (full)")


@pytest.mark.parametrize("error", [ValueError("a fault of the program"), OSError(errno.EIO, "a broken disk")])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)) as found:
        run(raising(error))
    assert found.value is error


@pytest.mark.parametrize("error, raised", [(UserError("a sentence"), SystemExit), (ValueError("a fault"), ValueError)])
def test_the_launcher_is_told_what_ended_a_rank(tmp_path, monkeypatch, error, raised):
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    with pytest.raises(raised):
        run(raising(error))
    assert str(error) in json.loads(file.read_text())["message"]["message"]


def test_a_script_that_succeeds_ends_without_a_word(capsys):
    called = []
    run(lambda: called.append(1))
    assert called == [1] and capsys.readouterr() == ("", "")


def test_the_first_rank_speaks_and_the_others_only_warn(tmp_path, capsys):
    log = start_logging(0, str(tmp_path / "zero"))
    log.info("from the first")
    assert "from the first" in capsys.readouterr().err and "from the first" in (tmp_path / "zero/training.log").read_text()
    log = start_logging(2, str(tmp_path / "two"))
    log.info("not this")
    log.warning("but this")
    said = capsys.readouterr().err
    assert "not this" not in said and "rank 2 but this" in said and not (tmp_path / "two").exists()
    assert "but this" not in (tmp_path / "zero/training.log").read_text() and not log.propagate
    start_logging()
    assert len(log.handlers) == 1 and log.level == logging.INFO


def test_what_ends_a_run_is_in_its_log_and_not_twice_on_the_terminal(tmp_path, capsys):
    start_logging(0, str(tmp_path))
    with pytest.raises(ValueError), errors_in_log():
        raise ValueError("a reason")
    assert (tmp_path / "training.log").read_text().count("ended: a reason") == 1 and capsys.readouterr().err == ""


def numbers(seed: int, *purpose) -> list[float]:
    return torch.rand(4, generator=generator(seed, *purpose)).tolist()


def test_a_draw_depends_on_seed_and_purpose_alone():
    first = numbers(1, "order", 0)
    torch.manual_seed(99)
    assert numbers(1, "order", 0) == first
    others = [numbers(2, "order", 0), numbers(1, "flip", 0), numbers(1, "order", 1), numbers(1, "order"), numbers(1)]
    assert len({tuple(found) for found in (first, *others)}) == 6


def test_network_input_is_scaled_flipped_and_in_the_networks_order():
    """[B, H, W, 3] of bytes -> [B, 3, H, W]; the mirror image exchanges left and right of the flagged images only."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8))
    for scale, settings in ((127.5, {}), (128.0, {"pixel_scale": 128.0})):
        for flags in (None, torch.tensor([True, False, True])):
            found = to_input(images, "cpu", flags, **settings)
            assert found.shape == (3, 3, 4, 5) and found.dtype == torch.float32
            for b in range(3):
                for y, x, c in np.ndindex(4, 5, 3):
                    column = 4 - x if flags is not None and flags[b] else x
                    expected = (int(images[b, y, column, c]) - 127.5) / scale
                    assert found[b, c, y, x].item() == pytest.approx(expected, abs=1e-6)


def test_two_writers_of_one_file_have_parts_of_their_own(tmp_path):
    """Whoever ends last gives the file its name; neither mixes with the other or loses its own."""
    for writer in (whole_file, written_beside):
        with writer(tmp_path / "a") as first, writer(tmp_path / "a") as second:
            assert first != second and first.parent == second.parent == tmp_path
            first.write_text("one"), second.write_text("two")
        assert (tmp_path / "a").read_text() == "one" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_free_space_is_that_of_the_files_disk(tmp_path):
    assert float(free_space(tmp_path / "not/there/yet").split()[0]) > 0


def test_numbers_on_the_command_line_have_a_least_value(tmp_path):
    count = at_least(1, int)
    assert count("1") == 1 and at_least(0, float)("0.5") == 0.5
    for text, kind in (("0", count), ("-3", count), ("nan", at_least(0, float)), ("inf", at_least(0, float))):
        with pytest.raises(argparse.ArgumentTypeError, match=f"or more, found {text}"):
            kind(text)
    make_folder(tmp_path / "a/b", "--out")
    make_folder(tmp_path / "a/b", "--out")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/b cannot be made .* give another with --out"):
        make_folder(tmp_path / "file/b", "--out")


@pytest.mark.parametrize("fp16", [False, True, torch.bfloat16])
def test_a_loaded_model_has_the_precision_that_was_asked_for(tmp_path, fp16):
    torch.save(get_model("mbf", num_features=8, image_size=16).state_dict(), tmp_path / "model.pt")
    model = load_model("mbf", tmp_path / "model.pt", fp16=fp16)
    assert model.fp16 is fp16 and not model.training and not any(m.training for m in model.modules())


def test_help_begins_with_the_docstring_and_shows_defaults_where_there_are_some():
    parser = Parser("What it does.\n\n    an example\n")
    parser.add_argument("--one", default=0, help="a number")
    parser.add_argument("--two", help="a file")
    parser.add_argument("--three", action="store_true", help="a flag")
    parser.add_argument("--four", nargs="+", default=["50 %", "b"], help="words")
    parser.add_argument("--five", help="a file (default: next to --two)", default="x")
    said = " ".join(parser.format_help().split())
    assert parser.format_help().startswith("What it does.\n\n    an example\n\nusage: ")
    assert said.count("What it does.") == 1 and "None" not in said and "False" not in said
    for text in ("a number (default: 0) ", "a file --three", "a flag --four", "words (default: 50 % b) "):
        assert text in said
    assert said.endswith("a file (default: next to --two)")
