"""One setting: its default, its meaning, and the values that it accepts; and all settings of a run, frozen.

configs/base.py and each method's base.py are written with the functions below.  The loader checks values against them,
tools/check reports them, and ``--help`` of the training scripts prints them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """A default with its meaning (and unit); ``expected``: which values are accepted, in words and as a function."""

    default: object
    meaning: str
    expected: str
    accepts: Callable[[object], bool]
    is_text: bool = False       # VALUE of KEY=VALUE is text even if it looks like a number
    is_list: bool = False       # VALUE [A,B] of KEY=VALUE is a list, of text if ``is_text``

    def or_none(self, when: str) -> "Setting":
        """The same setting with None as its default and as an accepted value; ``when``: what None means."""
        return Setting(None, f"{self.meaning}; None = {when}", f"{self.expected}, or None",
                       lambda value: value is None or self.accepts(value), self.is_text, self.is_list)

    def or_list(self) -> "Setting":
        """The same setting, which also accepts a list of its values, of at least one."""
        def accepts(value) -> bool:
            return self.accepts(value) or isinstance(value, (list, tuple)) and len(value) > 0 and all(map(self.accepts, value))
        return Setting(self.default, self.meaning, f"{self.expected}, or a list of such", accepts, self.is_text, True)


def bounds(above: float | None, least: float | None, most: float | None, below: float | None) -> tuple[str, Callable]:
    """The range in words (" above 0, up to 1") and as a function."""
    parts = [(above, "above", lambda value, limit: value > limit), (least, "from", lambda value, limit: value >= limit),
             (most, "up to", lambda value, limit: value <= limit), (below, "below", lambda value, limit: value < limit)]
    given = [part for part in parts if part[0] is not None]
    words = ", ".join(f"{name} {limit:g}" for limit, name, _ in given)
    return f" {words}" if words else "", lambda value: all(holds(value, limit) for limit, _, holds in given)


def is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def number(default, meaning: str, *, above=None, least=None, most=None, below=None, hint: str = "") -> Setting:
    """A finite number; ``hint`` is added to the words of a refusal."""
    words, inside = bounds(above, least, most, below)
    return Setting(default, meaning, f"a number{words}{hint}", lambda value: is_number(value) and inside(value))


def whole(default, meaning: str, *, least: int = 0, multiple_of: int = 1, hint: str = "") -> Setting:
    """A whole number from ``least`` up."""
    words = f", a multiple of {multiple_of}" if multiple_of > 1 else ""
    return Setting(default, meaning, f"a whole number from {least} up{words}{hint}",
                   lambda value: type(value) is int and value >= least and value % multiple_of == 0)


def flag(default: bool, meaning: str) -> Setting:
    return Setting(default, meaning, "True or False", lambda value: type(value) is bool)


def text(default, meaning: str) -> Setting:
    """A name or a path; not empty."""
    return Setting(default, meaning, "a name or path that is not empty", lambda value: isinstance(value, str) and value != "",
                   is_text=True)


def choice(default, meaning: str, *names: str) -> Setting:
    """One of ``names``."""
    quoted = [f'"{name}"' for name in names]
    return Setting(default, meaning, f"{', '.join(quoted[:-1])} or {quoted[-1]}", lambda value: value in names, is_text=True)


def several(default, meaning: str, item: Setting, *, count: int | None = None) -> Setting:
    """A list or tuple of values that ``item`` accepts; ``count``: exactly so many."""
    size = "" if count is None else f" of {count} values"

    def accepts(value) -> bool:
        return isinstance(value, (list, tuple)) and count in (None, len(value)) and all(map(item.accepts, value))
    return Setting(default, meaning, f"a list{size}, each {item.expected}", accepts)


class Settings(dict):
    """All settings of a run by name, read as attributes or items.  Nothing changes them: :meth:`replace` makes another set."""

    def __getattr__(self, name: str):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no setting config.{name}") from None

    def replace(self, **changed) -> "Settings":
        return type(self)({**self, **changed})

    def refuse(self, *_args, **_named):
        raise TypeError("settings are frozen after they are checked; use settings.replace(key=value)")

    __setattr__ = __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = refuse     # type: ignore[assignment]

    def __reduce__(self):
        return type(self), (dict(self),)        # without __setitem__, which pickle would call


def refusals(values: dict, schema: dict[str, Setting]) -> Iterator[str]:
    """A sentence for each value that its setting does not accept."""
    for key, setting in schema.items():
        if not setting.accepts(values[key]):
            yield f"config.{key} = {values[key]!r}: expected {setting.expected}"


def described(schema: dict[str, Setting]) -> str:
    """One paragraph a setting, for ``--help``: name=default, meaning, accepted values."""
    return "\n".join(f"  {key}={setting.default!r}\n      {setting.meaning}\n      ({setting.expected})"
                     for key, setting in schema.items())
