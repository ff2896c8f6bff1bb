"""The settings that name what an old model left, for one old model or for several."""

from pathlib import Path

from utils.errors import UserError
from utils.settings import Settings

# A list in one of these has an entry for each old model.  A number or None is that of all old models.
KEYS = ("old_feature", "credible", "prototypes", "old_model", "old_classifier", "old_dim")


def old_dim(cfg: Settings) -> int:
    """Dimensions of the old model's features."""
    return cfg.embedding_size if cfg.old_dim is None else cfg.old_dim


def numbered(name: str, k: int, count: int) -> str:
    """``name`` of the k-th of several old models (from 0); without a number if there is one."""
    return name if count == 1 else f"{name} of old model {k + 1}"


def old_sides(cfg: Settings) -> list[Settings]:
    """The settings with each old model in turn; [cfg] if none of KEYS is a list.

    With several old models, credible and prototypes that are one file are left out: a method that reads them refuses that.
    UserError if the lists differ in length, if old_feature, old_model or old_classifier is one file, or if two share a file.
    """
    lists = {key: list(cfg[key]) for key in KEYS if isinstance(cfg[key], (list, tuple))}
    if not lists:
        return [cfg]
    counts = {key: len(values) for key, values in lists.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        found = ", ".join(f"config.{key} has {count}" for key, count in counts.items())
        raise UserError(f"{found}; expected lists of the same length, with an entry for each old model")
    count = next(iter(counts.values()))
    for key in KEYS:
        if count > 1 and key not in lists and key in ("credible", "prototypes"):
            lists[key] = [None] * count
        if key not in lists and isinstance(cfg[key], str) and count > 1:
            raise UserError(f"config.{key} = {cfg[key]} is one name, but there are {count} old models "
                            f"(config.{next(iter(lists))}); expected a list of {count}, or None")
        files = [Path(value) for value in lists.get(key, ()) if isinstance(value, str)]
        if len(set(files)) < len(files):
            raise UserError(f"config.{key} names one file for two old models; expected a different one for each")
    return [cfg.replace(**{key: values[k] for key, values in lists.items()}) for k in range(count)]
