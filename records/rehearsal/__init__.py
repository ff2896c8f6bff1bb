"""Drawn faces that nobody has: a world of identities, rendered with pose, light and a bad camera."""

from records.rehearsal.identity import Identity, identity
from records.rehearsal.render import Difficulty, Picture, render

__all__ = ["Difficulty", "Identity", "Picture", "identity", "render"]
