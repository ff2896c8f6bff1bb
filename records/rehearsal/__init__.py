from records.rehearsal.identity import identity
from records.rehearsal.render import Difficulty, render
