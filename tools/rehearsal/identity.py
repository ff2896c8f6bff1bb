"""The people of the synthetic faces: shape and colour parameters, a skin and a relief, from (seed, number).

Lengths are in distances between the eyes: x to the right of the image, y down, z towards the camera, origin between the
eyes.
"""

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np

from utils.opencv import cv2

# Streams of random numbers: a key is (stream, ...); see draws.
FACE, SCENE, FRAME, LAYOUT = range(4)

# A value is mean + person * z(identity) + scene * z(scene) + frame * z(frame); every z has variance 1.
# A row with a large `person` is a feature of the person, with a large `scene` styling, with a large `frame` expression.
# The last three columns are the correlations of z(identity) with sex, age and build, as in real faces.
PARAMETERS = (
    # name             mean  person scene  frame    sex   age build
    # outline
    ("crown_y",       -1.52, 0.07,  0.00,  0.00,   0.0,  0.0,  0.0),
    ("temple_width",   1.00, 0.06,  0.01,  0.00,   0.2,  0.0,  0.2),
    ("cheek_width",    1.14, 0.08,  0.02,  0.00,   0.2,  0.0,  0.6),
    ("jaw_width",      0.92, 0.10,  0.03,  0.00,   0.4,  0.1,  0.5),
    ("jaw_y",          0.98, 0.10,  0.00,  0.00,   0.1,  0.2,  0.0),
    ("chin_width",     0.42, 0.09,  0.01,  0.00,   0.4,  0.0,  0.3),
    ("chin_y",         1.76, 0.12,  0.00,  0.00,   0.3,  0.0,  0.0),
    ("depth",          0.75, 0.06,  0.00,  0.00,   0.0,  0.0,  0.0),
    ("ear_size",       0.30, 0.06,  0.00,  0.00,   0.2,  0.3,  0.0),
    ("ear_y",          0.25, 0.09,  0.00,  0.00,   0.0,  0.2,  0.0),
    ("ear_out",        0.08, 0.05,  0.00,  0.00,   0.1,  0.0,  0.0),
    ("neck_width",     0.78, 0.10,  0.02,  0.00,   0.5,  0.0,  0.4),
    # eyes
    ("eye_width",      0.52, 0.05,  0.01,  0.00,   0.0,  0.0, -0.2),
    ("eye_height",     0.21, 0.04,  0.00,  0.00,  -0.3, -0.4,  0.0),
    ("eye_tilt",       0.02, 0.05,  0.00,  0.00,  -0.2, -0.3,  0.0),
    ("eye_skew",       0.00, 0.22,  0.00,  0.00,   0.0,  0.0,  0.0),
    ("lid_line",      0.035, 0.012, 0.006, 0.00,  -0.5,  0.0,  0.0),
    ("lid_fold",       0.09, 0.035, 0.00,  0.00,   0.0,  0.2,  0.0),
    ("iris",          0.105, 0.010, 0.00,  0.00,   0.0,  0.0,  0.0),
    ("eye_close",      0.05, 0.05,  0.00,  0.16,   0.0,  0.0,  0.0),
    ("gaze_x",         0.00, 0.01,  0.00,  0.06,   0.0,  0.0,  0.0),
    ("gaze_y",         0.00, 0.01,  0.00,  0.025,  0.0,  0.0,  0.0),
    # brows
    ("brow_y",        -0.36, 0.055, 0.02,  0.00,   0.3,  0.1,  0.0),
    ("brow_in",        0.20, 0.055, 0.00,  0.00,  -0.3,  0.0,  0.0),
    ("brow_length",    0.62, 0.07,  0.00,  0.00,   0.0,  0.0,  0.0),
    ("brow_thick",    0.105, 0.034, 0.004, 0.00,   0.5,  0.1,  0.0),
    ("brow_taper",     0.50, 0.22,  0.00,  0.00,   0.0,  0.0,  0.0),
    ("brow_arch",      0.07, 0.045, 0.00,  0.00,  -0.4,  0.0,  0.0),
    ("brow_tilt",     -0.07, 0.07,  0.00,  0.00,   0.0,  0.2,  0.0),
    ("brow_raise",     0.00, 0.01,  0.00,  0.06,   0.0,  0.0,  0.0),
    ("frown",          0.00, 0.01,  0.00,  0.03,   0.2,  0.2,  0.0),
    # nose
    ("nose_y",         0.57, 0.07,  0.00,  0.00,   0.1,  0.2,  0.0),
    ("nose_width",     0.56, 0.08,  0.00,  0.00,   0.4,  0.2,  0.1),
    ("bridge_width",   0.22, 0.04,  0.00,  0.00,   0.2,  0.0,  0.0),
    ("nose_z",         0.42, 0.09,  0.00,  0.00,   0.3,  0.2,  0.0),
    ("nose_root",      0.12, 0.08,  0.00,  0.00,   0.2,  0.0,  0.0),
    ("nose_hook",      0.00, 0.05,  0.00,  0.00,   0.2,  0.2,  0.0),
    ("nostril",       0.070, 0.018, 0.00,  0.00,   0.2,  0.0,  0.0),
    ("nostril_x",      0.13, 0.025, 0.00,  0.00,   0.0,  0.0,  0.0),
    ("wing_line",      0.45, 0.20,  0.00,  0.05,   0.0,  0.3,  0.0),
    # mouth
    ("mouth_y",        1.15, 0.07,  0.00,  0.00,   0.2,  0.1,  0.0),
    ("mouth_width",    0.82, 0.085, 0.01,  0.00,   0.1,  0.0,  0.1),
    ("upper_lip",     0.105, 0.034, 0.004, 0.00,  -0.3, -0.4,  0.1),
    ("lower_lip",     0.145, 0.038, 0.004, 0.00,  -0.3, -0.3,  0.1),
    ("cupid",         0.035, 0.020, 0.00,  0.00,  -0.2, -0.2,  0.0),
    ("corner_y",      -0.01, 0.030, 0.00,  0.00,   0.0,  0.4,  0.0),
    ("smile",          0.35, 0.20,  0.00,  0.55,  -0.2,  0.0,  0.0),
    ("mouth_open",    -0.05, 0.03,  0.00,  0.10,   0.0,  0.0,  0.0),
    ("pucker",         0.00, 0.10,  0.00,  0.25,   0.0,  0.0,  0.0),
    # relief, as heights above the ellipsoid of the head (see BUMPS)
    ("brow_ridge",     0.06, 0.05,  0.00,  0.00,   0.6,  0.1,  0.0),
    ("socket",         0.13, 0.06,  0.00,  0.00,   0.2,  0.3, -0.4),
    ("cheekbone",      0.06, 0.06,  0.00,  0.00,  -0.1, -0.2, -0.2),
    ("cheek",          0.00, 0.08,  0.01,  0.00,   0.0, -0.3,  0.6),
    ("lips_out",       0.09, 0.05,  0.01,  0.00,   0.0, -0.2,  0.0),
    ("chin_out",       0.10, 0.07,  0.00,  0.00,   0.3,  0.0,  0.1),
    ("cleft",          0.00, 0.03,  0.00,  0.00,   0.2,  0.0,  0.0),
    ("fold",           0.04, 0.035, 0.01,  0.00,   0.1,  0.6,  0.1),
    ("eye_bag",        0.02, 0.025, 0.01,  0.00,   0.1,  0.5,  0.1),
    # hair
    ("hairline_y",    -1.08, 0.15,  0.03,  0.00,  -0.1, -0.4,  0.0),
    ("peak",           0.00, 0.09,  0.01,  0.00,   0.1,  0.0,  0.0),
    ("recede",         0.05, 0.14,  0.01,  0.00,   0.5,  0.5,  0.0),
    ("fringe",        -0.10, 0.22,  0.16,  0.00,  -0.3, -0.1,  0.0),
    ("parting",        0.00, 0.35,  0.10,  0.00,   0.0,  0.0,  0.0),
    ("hair_top",       0.18, 0.09,  0.05,  0.00,  -0.1, -0.3,  0.0),
    ("hair_side",      0.10, 0.10,  0.06,  0.00,  -0.5,  0.0,  0.0),
    ("hair_length",    0.45, 0.65,  0.25,  0.00,  -0.8, -0.1,  0.0),
    ("sideburn_y",     0.15, 0.22,  0.04,  0.00,   0.3,  0.0,  0.0),
    ("moustache",     -0.75, 0.65,  0.12,  0.00,   0.7,  0.1,  0.0),
    ("beard",         -0.85, 0.65,  0.12,  0.00,   0.7,  0.2,  0.0),
    ("beard_height",   0.35, 0.25,  0.03,  0.00,   0.0,  0.0,  0.0),
    ("stubble",       -0.10, 0.22,  0.10,  0.00,   0.7,  0.0,  0.0),
    # colour: 0 dark .. 1 light, or a shift of hue
    ("skin_light",     0.62, 0.20,  0.05,  0.00,  -0.1,  0.0,  0.0),
    ("skin_warm",      0.00, 0.45,  0.25,  0.00,   0.0,  0.0,  0.0),
    ("blush",          0.05, 0.06,  0.05,  0.00,  -0.2,  0.0,  0.1),
    ("hair_light",     0.25, 0.25,  0.06,  0.00,   0.0,  0.3,  0.0),
    ("hair_red",       0.10, 0.30,  0.08,  0.00,   0.0,  0.0,  0.0),
    ("hair_grey",     -0.15, 0.35,  0.02,  0.00,   0.1,  0.9,  0.0),
    ("brow_dark",      0.60, 0.22,  0.08,  0.00,   0.0, -0.2,  0.0),
    ("eye_light",      0.35, 0.30,  0.02,  0.00,   0.0,  0.0,  0.0),
    ("lip_red",        0.35, 0.18,  0.14,  0.00,  -0.4, -0.2,  0.0),
    ("lip_dark",       0.15, 0.10,  0.06,  0.00,   0.0,  0.0,  0.0),
    # accessories that one person has more often than another
    ("glasses",       -1.00, 0.80,  0.60,  0.00,   0.0,  0.4,  0.0),
)
NAMES = tuple(row[0] for row in PARAMETERS)
TABLE = np.array([row[1:] for row in PARAMETERS])
MEAN, PERSON, STYLING, EXPRESSION = TABLE.T[:4]
LOADINGS = TABLE[:, 4:]                                              # [P, 3]

# Gaussian hills exp(-((|x|-x0)/wx)^2 - ((y-y0)/wy)^2) of the relief: a parameter is the height of its hill ...
BUMPS = (
    # parameter     sign    x0     y0     wx    wy
    ("brow_ridge",  1.0,   0.40, -0.30,  0.40, 0.14),
    ("socket",     -1.0,   0.48,  0.02,  0.28, 0.20),
    ("eye_bag",     1.0,   0.50,  0.24,  0.25, 0.07),
    ("cheekbone",   1.0,   0.72,  0.45,  0.28, 0.22),
    ("cheek",       1.0,   0.62,  0.90,  0.30, 0.30),
    ("fold",       -1.0,   0.46,  0.85,  0.09, 0.28),
    ("lips_out",    1.0,   0.00,  1.15,  0.40, 0.17),
    ("chin_out",    1.0,   0.00,  1.56,  0.32, 0.18),
    ("cleft",      -1.0,   0.00,  1.60,  0.07, 0.14),
)
# ... and of the skin: a parameter above 0, times (red, green, blue), is subtracted from the colour.
STAINS = (
    # parameter     x0     y0     wx    wy     red  green  blue
    ("blush",      0.68,  0.62,  0.28, 0.24,  -0.3,  1.6,  1.3),
    ("eye_bag",    0.48,  0.20,  0.24, 0.08,   3.0,  3.6,  2.7),
    ("stubble",    0.00,  1.60,  1.10, 0.50,   1.1,  1.0,  0.8),
    ("stubble",    0.00,  0.92,  0.40, 0.12,   0.9,  0.8,  0.6),
)

# Maps of the skin and of the relief cover x and y in [-SPAN, SPAN] around (0, MIDDLE_Y) with MAP x MAP cells.
MAP, SPAN, MIDDLE_Y = 96, 1.95, 0.15
CELL = 2 * SPAN / MAP

# Number of displacement fields, for shapes without a parameter in the table; each identity has its own mixture of them.
FIELDS = 8


@dataclass(frozen=True)
class Identity:
    """One synthetic person; equal (seed, number) give equal arrays, whatever was drawn before.

    values: float64 [P], the parameters of the table for this person, without expression and styling.
    fields: float64 [FIELDS, 2], weights of the smooth displacement fields (see displacement).
    normals: float32 [MAP, MAP, 3], unit normals of the frontal face.  skin: float32 [MAP, MAP, 3], factors about 1.
    """
    seed: int
    number: int
    values: np.ndarray
    fields: np.ndarray
    normals: np.ndarray
    skin: np.ndarray


def draws(seed: int, *key: int) -> np.random.Generator:
    """Random numbers for one purpose: they depend only on (seed, key), not on the order or the process."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def identity(seed: int, number: int) -> Identity:
    """Person `number` (0 or more) of the world `seed` (0 or more)."""
    rng = draws(seed, FACE, number)
    causes = rng.standard_normal(3)                                  # sex, age, build
    rest = np.sqrt(np.clip(1 - (LOADINGS ** 2).sum(1), 0.05, 1))
    z = LOADINGS @ causes + rest * rng.standard_normal(len(NAMES))
    values = MEAN + PERSON * np.clip(z, -2.5, 2.5)
    p = SimpleNamespace(**dict(zip(NAMES, values.tolist(), strict=True)))
    fields = 0.035 * rng.standard_normal((FIELDS, 2))
    return Identity(seed, number, values, fields, normals_of(p, rng), skin_of(p, rng))


def varied(who: Identity, styling: np.random.Generator, frame: np.random.Generator, sway: float) -> SimpleNamespace:
    """The parameters of one picture: those of the person, moved by styling and expression.  sway: factor on the movement."""
    moved = STYLING * styling.standard_normal(len(NAMES)) + EXPRESSION * frame.standard_normal(len(NAMES))
    values = who.values + sway * moved
    return SimpleNamespace(**dict(zip(NAMES, values.tolist(), strict=True)))


def displacement(fields: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooth shifts (dx, dy), each [n], at the points (x, y) [n]: they make each face asymmetric in its own way."""
    u, v = x / 1.2, (y - 0.4) / 1.2
    basis = np.stack([u * v, u * u, v * v, u * u * v, np.sin(2.6 * v), np.sin(2.6 * u),
                      np.cos(3 * u) * v, np.cos(3 * v) * u])
    return tuple(fields.T @ basis)


def height(p: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z of the surface of the face at (x, y), without the small relief: a paraboloid head and a nose."""
    head = p.depth * (1 - (x / p.cheek_width) ** 2 - ((y - 0.2) / 1.75) ** 2)
    along = (y + 0.25) / (p.nose_y + 0.25)                           # 0 at the root, 1 at the tip
    ridge = p.nose_root + (p.nose_z - p.nose_root) * along + p.nose_hook * 4 * along * (1 - along)
    ends = clamp(6 * along + 0.9) * clamp(6.1 - 5 * along)           # fades in at the root, out below the tip
    half = 0.5 * (p.bridge_width + (p.nose_width - p.bridge_width) * clamp(along) ** 2)
    return np.maximum(head, -1.2) + ridge * ends * np.exp(-((x / (0.75 * half)) ** 2))


def clamp(x: np.ndarray) -> np.ndarray:
    """x, at least 0 and at most 1."""
    return np.minimum(np.maximum(x, 0), 1)


@cache
def grid() -> tuple[np.ndarray, np.ndarray]:
    """x and y of the centres of the cells, float32 [MAP, MAP] each."""
    centres = (np.arange(MAP, dtype=np.float32) + 0.5) * CELL - SPAN
    x, y = np.meshgrid(centres, centres + np.float32(MIDDLE_Y))
    return x, y


def hill(x0: float, y0: float, wide: float, high: float) -> np.ndarray:
    """A Gaussian hill of height 1 at (x0, y0), with its mirror image, float32 [MAP, MAP]."""
    x, y = grid()
    return np.exp(-((np.abs(x) - x0) / wide) ** 2 - ((y - y0) / high) ** 2)


@cache
def window() -> np.ndarray:
    """[MAP, MAP], 1 on the head, falling to 0 at the edges of the maps; outside, the value of the edge is used."""
    x, y = grid()
    return np.exp(-(x / 1.55) ** 6 - ((y - MIDDLE_Y) / 1.7) ** 6)


@cache
def bumps() -> np.ndarray:
    """The hills of BUMPS, [rows, MAP, MAP]."""
    return np.stack([sign * hill(*place) for _, sign, *place in BUMPS])


@cache
def stains() -> np.ndarray:
    """The stains of STAINS, [rows, MAP, MAP, 3]."""
    return np.stack([hill(*row[1:5])[..., None] * np.array(row[5:8], np.float32) for row in STAINS])


def blend(p: SimpleNamespace, table: tuple, layers: np.ndarray) -> np.ndarray:
    """Sum of the layers of a table, each times its parameter (for STAINS, a parameter below 0 counts as 0)."""
    weights = np.array([getattr(p, row[0]) for row in table], np.float32)
    return np.tensordot(np.maximum(weights, 0) if table is STAINS else weights, layers, 1)


def smooth_noise(rng: np.random.Generator, cells: int, channels: int) -> np.ndarray:
    """Random field float32 [MAP, MAP, channels] of about variance 1 with blotches MAP / cells cells wide."""
    coarse = rng.standard_normal((cells, cells, channels), np.float32)
    return cv2.resize(coarse, (MAP, MAP), interpolation=cv2.INTER_CUBIC).reshape(MAP, MAP, channels)


def normals_of(p: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Unit normals [MAP, MAP, 3] of the head with nose, bumps and the relief of this person."""
    z = height(p, *grid()) + blend(p, BUMPS, bumps()) + 0.022 * window() * smooth_noise(rng, 11, 1)[..., 0]
    dy, dx = np.gradient(cv2.GaussianBlur(z, (0, 0), 1.0), np.float32(CELL))
    length = np.sqrt(dx * dx + dy * dy + 1)
    return cv2.merge([-dx / length, -dy / length, 1 / length])


def skin_of(p: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Colour factors [MAP, MAP, 3]: blotches, freckles, blush, rings under the eyes, stubble, wrinkles, moles."""
    blotches = 0.055 * smooth_noise(rng, 7, 1) + 0.02 * smooth_noise(rng, 5, 3)
    skin = 1 + cv2.merge([window()] * 3) * blotches - blend(p, STAINS, stains())
    freckles = max(0.0, rng.normal(-0.03, 0.09)) * np.abs(smooth_noise(rng, 48, 1)[..., 0]) * hill(0.4, 0.4, 0.5, 0.35)
    skin -= cv2.merge([0.6 * freckles, freckles, 1.2 * freckles])
    wrinkles = wrinkles_of(p, rng)
    skin *= cv2.merge([wrinkles] * 3)
    for _ in range(rng.poisson(1.5)):
        place = on_map(rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 1.5))
        dark = rng.uniform(0.35, 0.8)
        cv2.circle(skin, place, int(rng.uniform(8, 24)), (dark, 0.9 * dark, 0.85 * dark), -1, cv2.LINE_8, 4)
    return skin


def on_map(x: float, y: float) -> tuple[int, int]:
    """A point of the face in map coordinates, in 1/16 cells, for OpenCV's drawing functions."""
    return int(16 * (x + SPAN) / CELL) - 8, int(16 * (y - MIDDLE_Y + SPAN) / CELL) - 8


def wrinkles_of(p: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Factor [MAP, MAP]: lines of forehead, eyes and mouth, deeper in old faces because p.fold grows with age."""
    depth = min(max(0.25 + 8 * (p.fold - 0.04), 0.0), 0.6)
    lines = np.ones((MAP, MAP), np.float32)
    curves = [[(-0.6, y), (0.0, y + rng.uniform(-0.1, 0.05)), (0.6, y)] for y in rng.uniform(-0.95, -0.5, 3)]
    for side in (-1, 1):
        curves += [[(0.82 * side, y), (1.0 * side, 3 * y - 0.02)] for y in rng.uniform(-0.06, 0.1, 2)]
        curves += [[(0.3 * side, 0.62), (0.46 * side, 0.85), (0.5 * side, p.mouth_y)]]
    for curve in curves:
        cv2.polylines(lines, [np.array([on_map(x, y) for x, y in curve], np.int32)], False,
                      1 - depth * rng.uniform(0.2, 1), 1, cv2.LINE_8, 4)
    return cv2.GaussianBlur(lines, (0, 0), 0.9)
