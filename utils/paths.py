"""Where the repository is, and how names of files are looked up."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def locate(name: str, folder: str) -> Path:
    """``name`` as given when something is there (a file, or files that it is the prefix of), else inside ``folder``."""
    given = Path(name)
    if given.is_absolute() or given.exists() or given.with_name(given.name + ".rec").exists():
        return given
    return Path(folder) / name
