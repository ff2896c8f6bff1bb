"""Configs: plain Python files that define ``config``; run by path, merged over the defaults, checked by name."""

import ast
import difflib
import logging
import runpy
from pathlib import Path

from easydict import EasyDict as edict

from utils.errors import UserError
from utils.paths import ROOT, locate

COMMAND_LINE = "the command line"


def load_config(path: str, overrides: list[str] = ()) -> edict:
    """Settings of the config file ``path``: configs/base.py <- its folder's base.py <- the file <- overrides.

    overrides: "KEY=VALUE" texts; VALUE is read as a Python literal, else as text.
    A key that nothing defines but that is close to a known one raises :class:`UserError`; another unknown
    key is warned about, because it may belong to the user's own method.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config file {path}; the ones that come with the project are in configs/ and "
                        f"BCT_Methods/*/configs/")
    config = run_config(ROOT / "configs/base.py")
    beside = path.resolve().parent / "base.py"
    if beside.is_file():
        config.update(run_config(beside))
    for key, value in run_config(path).items():
        set_key(config, key, value, path)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"expected KEY=VALUE after the config file, found '{text}'")
        set_key(config, key, literal(value), COMMAND_LINE)
    config.dataset = str(locate(config.dataset, ROOT))
    config.name = path.stem
    if config.output is None:
        config.output = str(ROOT / "work_dirs" / path.stem)
    return config


def run_config(path: Path) -> edict:
    """The ``config`` that a config file defines."""
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} does not run: {type(error).__name__}: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} defines no `config`; expected config = edict(...) as in configs/base.py")
    return config if isinstance(config, edict) else edict(config)


def set_key(config: edict, key: str, value, source) -> None:
    if key not in config:
        near = difflib.get_close_matches(key, config, n=1, cutoff=0.75)
        if near:
            raise UserError(f"unknown key config.{key} in {source}; did you mean config.{near[0]}?")
        if source == COMMAND_LINE:
            raise UserError(f"unknown key config.{key} in {source}; every setting stands in configs/base.py and in the "
                            f"base.py beside the config")
        logging.getLogger("bct").warning("unknown key config.%s in %s: nothing here reads it", key, source)
    if isinstance(config.get(key), (int, float)) and isinstance(value, str):
        raise UserError(f"config.{key} = '{value}' in {source}: expected a number or True or False, "
                        f"as in {key} = {config[key]}")
    config[key] = value


def literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
