"""Rows on the settings, the training script and the folder of the run."""

import runpy
import sys
import tempfile
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TypeVar

from engine.checkpoint_files import changes, found_in, problem_of, refuse_another_training
from engine.initial import start_from
from engine.method import Method
from engine.parts import new_backbone
from engine.settings import check_settings, settings_of
from losses import PartialFC
from records.facts import Facts
from tools.check.report import OK, WARNING, WRONG, Report
from utils.config import load_config, read_schema, run_config, set_value
from utils.errors import UserError
from utils.files import disk_errors
from utils.paths import ROOT
from utils.settings import Settings

Classes = tuple[type[Method], type[PartialFC]]
T = TypeVar("T")
ENDING = 'METHOD = <its Method>, HEAD = <its head> (if it is not PartialFC), if __name__ == "__main__": main(METHOD)'


def read_settings(path: Path, overrides: list[str], report: Report) -> Settings | None:
    """Settings of the config file with the ``overrides`` that are accepted; a row for each of the others.

    None if the file itself is refused; then there is a row for each of its wrong values.
    """
    if report.attempt("settings", lambda: load_config(path)) is None:
        if path.is_file():
            report.attempt("settings", lambda: look_at_values(path, report))
        return None
    accepted = [text for text in overrides if report.attempt("settings", partial(load_config, path, [text])) is not None]
    return settings_together(path, accepted, report)


def look_at_values(path: Path, report: Report) -> None:
    """A row for each value of the config file that is refused."""
    schema, values = read_schema(path.resolve().parent)
    for key, value in run_config(path).items():
        report.attempt("settings", partial(set_value, values, key, value, schema, path))


def settings_together(path: Path, overrides: list[str], report: Report) -> Settings:
    """The settings with those ``overrides`` that work together.

    A refusal of :func:`engine.settings.check_settings` becomes a row; the overrides without which it would not occur are left
    out, and the rest is checked again.
    """
    cfg = load_config(path, overrides)
    refusal = refusal_of(cfg)
    if refusal is None:
        return cfg
    report.add("settings", refusal, WRONG)
    innocent = [text for text in overrides
                if refusal_of(load_config(path, [other for other in overrides if other != text])) == refusal]
    return cfg if innocent == overrides else settings_together(path, innocent, report)


def refusal_of(cfg: Settings) -> str | None:
    try:
        check_settings(cfg)
    except UserError as error:
        return str(error)
    return None


def script_of(config: Path) -> Path:
    """The script that trains with this config: train.py next to the folder of the config, else train_old_*.py."""
    script = config.resolve().parent.parent / "train.py"
    return script if script.is_file() else ROOT / f"train_old_{'softmax' if 'softmax' in config.stem else 'arc'}.py"


def classes_of(script: Path) -> Classes:
    """METHOD and HEAD of a training script, which is run without its last line.

    UserError for a script that does not name them, or that calls main() without asking for its own name.
    """
    if not script.is_file():
        raise UserError(f"no file {script}; name the training script with --script")
    command_line, sys.argv = sys.argv, [str(script)]        # main() finds no config here: it ends before it trains
    try:
        with redirect_stderr(StringIO()):
            names = runpy.run_path(str(script), run_name="<training script>")
    except SystemExit as error:
        raise UserError(f"{script} starts a training whenever it is read; end it with: {ENDING}") from error
    finally:
        sys.argv = command_line
    return named_class(script, names, "METHOD", Method), named_class(script, {"HEAD": PartialFC} | names, "HEAD", PartialFC)


def named_class(script: Path, names: dict, name: str, base: type[T]) -> type[T]:
    """The class ``name`` among the ``names`` that the script defines; UserError if it is not ``base`` or derived from it."""
    value = names.get(name)
    if not (isinstance(value, type) and issubclass(value, base)):
        raise UserError(f"{script}: expected {name}, a class derived from {base.__name__}, found {value!r}; end the script with: "
                        f"{ENDING}")
    return value


def look_at_init(cfg: Settings) -> tuple[str, str]:
    """What of config.init would be loaded; a run that resumes does not read it."""
    text = start_from(new_backbone(cfg), cfg.network, Path(cfg.init))
    return (f"{text}; not read, if the run resumes from a checkpoint" if cfg.resume else text), OK


def look_at_output(cfg: Settings, data: Facts | None, classes: Classes | None) -> tuple[str, str]:
    """The folder of the run: whether it can be written to, and which checkpoints an earlier run left in it.

    data, classes: None if unknown; a checkpoint is then not compared with them.
    """
    folder = Path(cfg.output)
    with disk_errors(folder / "model.pt"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    checkpoints = found_in(folder / "checkpoints")
    if not checkpoints:
        return f"{folder}: a new run", OK
    if not cfg.resume:
        return f"{folder} holds a checkpoint (newest: {max(checkpoints, key=int)}): add resume=True to resume from it", WRONG
    problems = {name: problem_of(folder / "checkpoints" / name, about) for name, about in checkpoints.items()}
    corrupt = "".join(f"; {problem}" for problem in problems.values() if problem)
    intact = {name: about for name, about in checkpoints.items() if problems[name] is None and not isinstance(about, str)}
    if not intact:
        return f"{folder}: no checkpoint is intact{corrupt}", WRONG
    newest = max(intact, key=int)
    if data is not None and classes is not None:
        refuse_another_training(folder / "checkpoints" / newest, changes(intact[newest], settings_of(cfg, data, *classes)))
    return f"{folder}: resumes from a checkpoint ({newest} images seen){corrupt}", WARNING if corrupt else OK
