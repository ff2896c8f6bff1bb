"""Configs: plain Python files that define ``config``; run by path, merged over the defaults, checked against the schema."""

import ast
import difflib
import logging
import os
import runpy
from pathlib import Path

from utils.errors import UserError
from utils.paths import ROOT, locate
from utils.settings import Setting, Settings, refusals

COMMAND_LINE = "the command line"


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Settings:
    """Settings of the config file ``path``: configs/base.py <- its folder's base.py <- the file <- overrides.

    overrides: "KEY=VALUE" texts; VALUE is read as a Python literal, else as text.  Raises :class:`UserError` for a value that its
    setting does not accept, for a key of the command line that nothing defines, and for a key that nothing defines but that is
    close to a known one.  Another unknown key of a file is warned about: it may belong to the user's own method.  ``output`` and
    ``feature_save`` that are not absolute are below the repository, wherever the command is started.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config file {path}; the configs of the project are in configs/ and BCT_Methods/*/configs/")
    schema, values = read_schema(path.resolve().parent)
    for key, value in run_config(path).items():
        set_value(values, key, value, schema, path)
    for override in overrides:
        key, equals, word = override.partition("=")
        if not equals:
            raise UserError(f"expected KEY=VALUE after the config file, found '{override}'")
        set_value(values, key, literal(word, schema.get(key)), schema, COMMAND_LINE)
    wrong = list(refusals(values, schema))
    if wrong:
        raise UserError("; ".join(wrong))
    return Settings(values | {"dataset": str(locate(values["dataset"], ROOT)), "name": path.stem,
                              "feature_save": str(ROOT / values["feature_save"]),
                              "old_model": located(values["old_model"]),
                              "init": located(values["init"]),
                              "output": str(ROOT / (values["output"] or f"work_dirs/{path.stem}"))})


def located(name: str | list[str] | None) -> str | list[str] | None:
    """A file, or each of a list, below the repository if it is not absolute."""
    if isinstance(name, (list, tuple)):
        return [str(locate(one, ROOT)) for one in name]
    return name and str(locate(name, ROOT))


def read_schema(folder: Path) -> tuple[dict[str, Setting], dict]:
    """(settings by name, defaults by name) of configs/base.py and of base.py in ``folder``, where there is one.

    A plain value in a base.py is a default that nothing checks.
    """
    files = [ROOT / "configs/base.py", folder / "base.py"]
    defined = {key: value for file in files if file.is_file() for key, value in run_config(file).items()}
    schema = {key: value for key, value in defined.items() if isinstance(value, Setting)}
    return schema, {key: schema[key].default if key in schema else value for key, value in defined.items()}


def run_config(path: Path) -> dict:
    """The ``config`` that a config file defines."""
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} does not run: {type(error).__name__}: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} defines no `config`; expected config = edict(...) as in configs/base.py")
    return dict(config)


def set_value(values: dict, key: str, value, schema: dict[str, Setting], source: Path | str) -> None:
    """values[key] = value; ``source``: the file or the command line, for messages."""
    if key not in values:
        near = difflib.get_close_matches(key, values, n=1, cutoff=0.75)
        if near:
            raise UserError(f"unknown key config.{key} in {source}; did you mean config.{near[0]}?")
        if source == COMMAND_LINE:
            raise UserError(f"unknown key config.{key} in {source}; all settings are listed in configs/base.py and in the "
                            f"base.py next to the config")
        logging.getLogger("bct").warning("unknown key config.%s in %s: nothing here reads it", key, source)
    setting = schema.get(key)
    if setting is not None and setting.is_text and isinstance(value, os.PathLike):
        value = str(value)
    if setting is not None and setting.is_list and isinstance(value, (list, tuple)):
        value = [str(one) if isinstance(one, os.PathLike) else one for one in value]
    if setting is None and isinstance(values.get(key), (int, float)) and isinstance(value, str):
        raise UserError(f"config.{key} = '{value}' in {source}: expected a number or True or False, as in {key} = {values[key]}")
    if setting is not None and not setting.accepts(value):
        raise UserError(f"config.{key} = {value!r} in {source}: expected {setting.expected}")
    values[key] = value


def literal(word: str, setting: Setting | None):
    """VALUE of KEY=VALUE: a Python literal, else text.  A setting that is text (a path may be 2024) gets text or None.

    [A,B] is a list of texts if the setting accepts lists: a shell removes quotation marks.
    """
    if setting is not None and setting.is_list and setting.is_text and word[:1] + word[-1:] == "[]":
        return [part.strip().strip("'\"") for part in word[1:-1].split(",")]
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word
    is_other = setting is not None and setting.is_text and value is not None and not isinstance(value, str)
    return word if is_other else value
