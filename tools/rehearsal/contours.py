"""The contours of a face, its hair and clothes, and what covers it, in the frontal face coordinates of identity.py.

Points are complex numbers x + iy: a contour is a vector, a rotation is a factor, the mirror image is -conj.
"""

from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

T = np.linspace(-1, 1, 13)                                           # along a lid or a lip, from corner to corner
BULGE = 1 - T**2
S = np.linspace(0, 1, 7)                                             # along a brow, from the nose outwards
CIRCLE = np.exp(2j * np.pi * np.arange(16) / 16)

# Colour ramps (RGB) for a parameter in [0, 1].
SKIN = np.array([[74, 46, 36], [128, 84, 62], [186, 135, 106], [222, 178, 150], [243, 212, 192]])
HAIR = np.array([[22, 18, 18], [62, 42, 30], [116, 78, 48], [182, 138, 84], [226, 196, 142]])
WHITE, BLACK = np.array([226.0, 220, 212]), np.array([20.0, 15, 13])
EYES = np.array([[40, 26, 20], [84, 54, 32], [112, 96, 60], [84, 120, 104], [96, 140, 176], [140, 170, 190]])


class Shape(NamedTuple):
    """One thing to paint: complex polygons [n], which are filled (width 0) or open lines of `width` face units."""
    polygons: list[np.ndarray]
    colour: np.ndarray
    width: float = 0.0


@cache
def spline(n: int) -> np.ndarray:
    """Matrix [4n, n]: from n control points to a closed Catmull-Rom curve of 4n points."""
    matrix = np.zeros((4 * n, n))
    for i in range(n):
        for k, t in enumerate((0, 0.25, 0.5, 0.75)):
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
            for j, weight in enumerate(weights):
                matrix[4 * i + k, (i + j - 1) % n] += weight / 2
    return matrix


def path(*controls: tuple[float, float]) -> np.ndarray:
    """The points (x, y), ... as complex numbers."""
    return np.array([complex(x, y) for x, y in controls])


def curve(*controls: tuple[float, float]) -> np.ndarray:
    """Closed smooth curve through the control points."""
    return spline(len(controls)) @ path(*controls)


def symmetric(*half: tuple[float, float]) -> np.ndarray:
    """Closed smooth curve through `half` (x >= 0, from top to bottom) and its mirror image; points at x = 0 are not doubled."""
    return curve(*half, *[(-x, y) for x, y in reversed(half) if x])


def both(points: np.ndarray) -> list[np.ndarray]:
    """A part of the right half of the image (x > 0) and its mirror image."""
    return [points, -points.conj()]


def ellipse(wide: float, high: float, x: float, y: float) -> np.ndarray:
    """An ellipse: half axes and centre."""
    return wide * CIRCLE.real + x + 1j * (high * CIRCLE.imag + y)


def band(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """The polygon between two curves over the same x."""
    return np.concatenate([x + 1j * top, (x + 1j * bottom)[::-1]])


def ramp(table: np.ndarray, t: float) -> np.ndarray:
    """Colour [3] at t in [0, 1] along the rows of the table."""
    t = min(max(t, 0.0), 1.0) * (len(table) - 1)
    i = min(int(t), len(table) - 2)
    return table[i] + (t - i) * (table[i + 1] - table[i])


def mix(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Colour between a (share 0) and b (share 1)."""
    return a + min(max(share, 0.0), 1.0) * (b - a)


def colours(p: SimpleNamespace) -> SimpleNamespace:
    """The colours [3] of skin, hair, brows, eyes and lips."""
    skin = ramp(SKIN, p.skin_light) * (1 + p.skin_warm * np.array([0.03, -0.01, -0.10]))
    hair = ramp(HAIR, p.hair_light) * (1 + p.hair_red * np.array([0.35, -0.05, -0.25]))
    hair = mix(hair, np.array([178.0, 176, 174]), p.hair_grey)
    lips = mix(skin, np.array([176.0, 62, 70]), p.lip_red) * (1 - p.lip_dark)
    return SimpleNamespace(skin=skin, hair=hair, lips=lips, eyes=ramp(EYES, p.eye_light),
                           brows=mix(mix(skin, hair, 0.85), BLACK, p.brow_dark - 0.3),
                           dark=skin * np.array([0.42, 0.34, 0.34]))


def landmarks(p: SimpleNamespace) -> np.ndarray:
    """Left eye, right eye, tip of the nose, left and right corner of the mouth, complex [5], as seen in the image."""
    half, corner = mouth_half(p), mouth_corner(p)
    return path((-0.5, 0), (0.5, 0), (0, p.nose_y), (-half, corner), (half, corner))


def face(p: SimpleNamespace) -> list[Shape]:
    """Every shape of head and hair, in painting order."""
    c = colours(p)
    return [*hair_behind(p, c), *neck(p, c), *head(p, c), *beard(p, c), *nose(p, c), *mouth(p, c),
            *eyes(p, c), *brows(p, c), *hair_in_front(p, c)]


def hair_behind(p, c) -> list[Shape]:
    if p.hair_length < 0.3:
        return []
    wide = p.cheek_width + 0.12 + 1.2 * max(p.hair_side, 0)
    return [Shape([symmetric((0, p.crown_y - p.hair_top), (0.8 * wide, -1.3), (wide, -0.4), (1.03 * wide, 0.4),
                             (wide, p.hair_length), (0.5 * wide, p.hair_length + 0.15), (0, p.hair_length))],
                  0.72 * c.hair)]


def neck(p, c) -> list[Shape]:
    w = p.neck_width
    return [Shape([path((w, 0.9), (w, 2.0), (1.25 * w, 2.6), (-1.25 * w, 2.6), (-w, 2.0), (-w, 0.9))],
                  0.72 * c.skin)]


def head(p, c) -> list[Shape]:
    drop = 0.45 * opening(p)
    ear_x = p.cheek_width + p.ear_out - 0.02
    ear = ellipse(0.16, p.ear_size, ear_x, p.ear_y)
    shell = np.roll(ellipse(0.08, 0.62 * p.ear_size, ear_x + 0.03, p.ear_y), 5)[:12]
    outline = symmetric((0, p.crown_y), (0.68 * p.temple_width, p.crown_y + 0.22), (p.temple_width, -0.55),
                        (p.cheek_width, 0.2), (p.jaw_width, p.jaw_y + 0.5 * drop),
                        (p.chin_width, p.chin_y - 0.12 + drop), (0, p.chin_y + drop))
    return [Shape(both(ear), 0.93 * c.skin), Shape(both(shell), 0.66 * c.skin, 0.03), Shape([outline], c.skin)]


def beard(p, c) -> list[Shape]:
    shapes, drop = [], 0.45 * opening(p)
    half = 0.5 * p.mouth_width
    if p.beard > 0:
        top = p.mouth_y - p.beard_height + 0.25
        outer = [(p.cheek_width - 0.02, top - 0.35), (p.jaw_width + 0.01, p.jaw_y + 0.5 * drop),
                 (p.chin_width + 0.05, p.chin_y - 0.1 + drop), (0, p.chin_y + 0.08 + drop)]
        inner = [(0, p.mouth_y + 0.24 + drop), (half, p.mouth_y + 0.12 + drop), (0.75 * p.jaw_width, top)]
        shapes.append(Shape(both(curve(*outer, *inner)), mix(c.skin, 0.9 * c.hair, 0.45 + 0.6 * p.beard)))
    if p.moustache > 0:
        y = p.mouth_y - p.upper_lip - 0.02
        shapes.append(Shape([symmetric((0, y - 0.14), (0.55 * half, y - 0.13), (1.1 * half, y + 0.09), (0, y))],
                            mix(c.skin, 0.9 * c.hair, 0.45 + 0.7 * p.moustache)))
    return shapes


def nose(p, c) -> list[Shape]:
    half = 0.5 * p.nose_width
    wing = path((0.78 * half, p.nose_y - 0.14), (1.02 * half, p.nose_y - 0.02), (0.98 * half, p.nose_y + 0.08),
                (0.72 * half, p.nose_y + 0.12))
    nostril = ellipse(p.nostril, 0.5 * p.nostril, p.nostril_x, p.nose_y + 0.12)
    under = 0.5 * p.nostril_x * T + 1j * (p.nose_y + 0.14 + 0.02 * BULGE)
    shade = mix(c.skin, c.dark, p.wing_line)
    return [Shape(both(wing), shade, 0.035), Shape([under], shade, 0.03), Shape(both(nostril), 0.75 * c.dark)]


def opening(p) -> float:
    """Distance between the lips."""
    return max(p.mouth_open + 0.05 * max(p.smile, 0), 0.0)


def mouth_half(p) -> float:
    """Half the distance between the corners of the mouth, with expression."""
    return 0.5 * p.mouth_width * (1 + 0.16 * p.smile - 0.18 * max(p.pucker, 0))


def mouth_corner(p) -> float:
    """Height of the corners of the mouth, with expression."""
    return p.mouth_y + p.corner_y - 0.07 * p.smile


def mouth(p, c) -> list[Shape]:
    gap, x = opening(p), mouth_half(p) * T
    full = 1 + 0.5 * max(p.pucker, 0)
    seam = p.mouth_y + (mouth_corner(p) - p.mouth_y) * (1 - BULGE)
    top = seam - full * (p.upper_lip * BULGE - p.cupid * np.exp(-(T / 0.18) ** 2))
    below = seam + gap * BULGE
    bottom = below + full * p.lower_lip * BULGE ** 0.8
    lines = [x + 1j * seam] + [x + 1j * below] * (gap > 0.02)
    teeth = [Shape([band(0.85 * x, seam, seam + 0.6 * gap * BULGE)], WHITE)] * (gap > 0.04)
    return [Shape([band(x, top, seam)], 0.88 * c.lips), Shape([band(x, below, bottom)], c.lips),
            Shape([band(x, seam, below)], 0.45 * c.dark), *teeth,
            Shape(lines, mix(c.lips, c.dark, 0.75), 0.025),
            Shape([0.45 * x + 1j * (bottom + 0.06)], 0.84 * c.skin, 0.05)]


def eyes(p, c) -> list[Shape]:
    """Both eyes; gaze shifts both irises in the same direction, so they are not mirror images."""
    tall = p.eye_height * max(1 - 3 * max(p.eye_close, 0) ** 1.5 - 0.12 * max(p.smile, 0), 0.06)
    lens = 1 - np.abs(T + p.eye_skew * BULGE) ** 2.2
    x, slant = 0.5 + 0.5 * p.eye_width * T, p.eye_tilt * T
    upper, lower = -0.58 * tall * lens - slant, 0.42 * tall * lens - slant
    fold = x + 0.01 * T + 1j * (upper - p.lid_fold * (0.4 + 0.6 * BULGE))

    def irises(radius):
        """A disc in each eye, cut off by the lids."""
        discs = [ellipse(radius, radius, 0.5 + side * p.gaze_x, p.gaze_y) for side in (1, -1)]
        right, left = [d.real + 1j * np.clip(d.imag, np.interp(d.real, x, upper), np.interp(d.real, x, lower))
                       for d in discs]
        return [right, -left.conj()]

    glint = 0.25 * p.iris * CIRCLE + complex(p.gaze_x + 0.04, p.gaze_y - 0.04)
    return [Shape(both(fold), mix(c.skin, c.dark, 0.55), 0.025), Shape(both(band(x, upper, lower)), WHITE),
            Shape(irises(p.iris), c.eyes), Shape(irises(0.45 * p.iris), BLACK),
            *[Shape([glint - 0.5, glint + 0.5], 1.06 * WHITE)] * (tall > 0.1),
            Shape(both(x + 1j * upper), mix(c.brows, BLACK, 0.6), p.lid_line)]


def brows(p, c) -> list[Shape]:
    x = p.brow_in - 0.6 * p.frown + p.brow_length * S
    middle = (p.brow_y - p.brow_raise + p.frown * (1 - S) - p.brow_arch * np.sin(np.pi * S**1.3)
              - p.brow_tilt * (S - 0.5))
    thick = 0.5 * max(p.brow_thick, 0.02) * (1 - p.brow_taper * S) * np.minimum(1, 5 * (1.04 - S))
    return [Shape(both(band(x, middle - thick, middle + thick)), c.brows)]


def hair_in_front(p, c) -> list[Shape]:
    if p.hairline_y < -1.36:                                         # bald on top
        return []
    temple, side = p.temple_width, max(p.hair_side, 0.0)
    low = p.hairline_y + max(p.fringe, 0)
    right, left = low - 0.35 * max(p.parting, 0), low - 0.35 * max(-p.parting, 0)
    edge_x, edge_y = 0.97 * p.cheek_width, -0.25
    line = [(edge_x + 0.04, p.sideburn_y), (edge_x - 0.06, edge_y), (0.86 * temple, -0.72),
            (0.62, right - max(p.recede, 0)), (0.28, right + 0.5 * p.peak), (0, low + p.peak),
            (-0.28, left + 0.5 * p.peak), (-0.62, left - max(p.recede, 0)), (-0.86 * temple, -0.72),
            (-edge_x + 0.06, edge_y), (-edge_x - 0.04, p.sideburn_y)]
    top, wide = p.crown_y - max(p.hair_top, 0.03), p.cheek_width + 0.05 + side
    outside = [(-wide, -0.3), (-0.95 * wide, -1.0), (-0.55 * wide, top + 0.1), (0, top), (0.55 * wide, top + 0.1),
               (0.95 * wide, -1.0), (wide, -0.3)]
    parted = path((0.5 * p.parting, low), (0.45 * p.parting, 0.6 * low + 0.4 * top), (0.35 * p.parting, top))
    return [Shape([curve(*line, *outside)], c.hair), Shape([parted], 0.6 * c.hair, 0.03)]


def clothes(rng: np.random.Generator) -> list[Shape]:
    """Shoulders and collar of any colour."""
    y, colour = rng.uniform(1.95, 2.3), rng.uniform(20, 230, 3)
    shoulders = symmetric((0, y + rng.uniform(0, 0.35)), (0.7, y - 0.05), (1.7, y + 0.25), (2.6, y + 0.7), (2.6, 3.5),
                          (0, 3.5))
    return [Shape([shoulders], colour)]


def glasses(p: SimpleNamespace, rng: np.random.Generator) -> list[Shape]:
    """Glasses, one pair of four with dark lenses."""
    wide, high = rng.uniform(0.30, 0.40), rng.uniform(0.20, 0.34)
    square = rng.uniform(0.6, 1.0)
    corner = np.abs(CIRCLE.real) ** square * np.sign(CIRCLE.real), np.abs(CIRCLE.imag) ** square * np.sign(CIRCLE.imag)
    lens = wide * corner[0] + 0.52 + 1j * (high * corner[1] + 0.05)
    frame = mix(np.array([30.0, 26, 24]), rng.uniform(20, 220, 3), rng.uniform(0, 0.6))
    rim = [np.concatenate([points, points[:1]]) for points in both(lens)]
    bridge = path((-0.52 + wide, 0.0), (0, -0.05), (0.52 - wide, 0.0))
    arm = path((0.52 + wide, -0.02), (p.cheek_width + 0.05, -0.02))
    dark = [Shape(both(lens), rng.uniform(15, 60, 3))] if rng.random() < 0.25 else []
    return [*dark, Shape([*rim, bridge, *both(arm)], frame, rng.uniform(0.03, 0.075))]


def cap(p: SimpleNamespace, rng: np.random.Generator) -> list[Shape]:
    """A cap down to some height of the forehead."""
    y, w, colour = rng.uniform(-0.95, -0.6), p.cheek_width + 0.16, rng.uniform(15, 225, 3)
    crown = symmetric((0, p.crown_y - 0.5), (0.8 * w, p.crown_y - 0.25), (w, y - 0.3), (w, y), (0, y + 0.12))
    brim = symmetric((0, y - 0.05), (0.9 * w, y - 0.02), (1.1 * w, y + 0.12), (0, y + 0.16))
    return [Shape([crown], colour), Shape([brim], 0.7 * colour)]


def scarf(p: SimpleNamespace, rng: np.random.Generator) -> list[Shape]:
    """A scarf or mask over the lower face, up to the chin, the mouth or the nose."""
    y, w, colour = rng.uniform(0.75, 1.7), p.cheek_width, rng.uniform(15, 225, 3)
    return [Shape([symmetric((0, y), (0.6 * w, y + 0.05), (1.05 * w, y - 0.1), (1.1 * w, 2.2), (0, 2.6))], colour)]


def hand(p: SimpleNamespace, rng: np.random.Generator) -> list[Shape]:
    """A blob like a hand or a microphone that covers a part of the face from one side."""
    angle, reach = rng.uniform(-0.2, np.pi + 0.2), rng.uniform(0.45, 1.15)
    direction, size = np.exp(1j * angle), rng.uniform(0.28, 0.55)
    centre = 0.5j + reach * direction
    blob = size * (1 + 0.25 * rng.uniform(-1, 1, 8)) * CIRCLE[::2]
    edge = 0.8j * size * direction
    sleeve = centre + np.array([edge, -edge, 3 * direction - edge, 3 * direction + edge])
    colour = mix(ramp(SKIN, rng.uniform()), rng.uniform(15, 230, 3), float(rng.integers(2)))
    return [Shape([sleeve], 0.85 * colour), Shape([spline(8) @ blob + centre], colour)]


COVERS = (cap, scarf, hand)
