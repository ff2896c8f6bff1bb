"""The contours of a face, hair, clothes and things in front of it, in the frontal face coordinates of identity.py."""

from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

RIGHT_AND_LEFT = (np.array([1.0, 1.0]), np.array([-1.0, 1.0]))
T = np.linspace(-1, 1, 13)                                           # along a lid or a lip, corner to corner
ARC = np.linspace(0, 2 * np.pi, 16, endpoint=False)
CIRCLE = np.stack([np.cos(ARC), np.sin(ARC)], 1)

# Colour ramps (RGB) that a parameter in [0, 1] runs along.
SKIN = np.array([[74, 46, 36], [128, 84, 62], [186, 135, 106], [222, 178, 150], [243, 212, 192]])
HAIR = np.array([[22, 18, 18], [62, 42, 30], [116, 78, 48], [182, 138, 84], [226, 196, 142]])
EYES = np.array([[40, 26, 20], [84, 54, 32], [112, 96, 60], [84, 120, 104], [96, 140, 176], [140, 170, 190]])


class Shape(NamedTuple):
    """One thing to paint: polygons [n, 2] that are filled (width 0) or open lines of `width` face units."""
    polygons: list[np.ndarray]
    colour: np.ndarray
    width: float = 0.0


@cache
def spline(n: int) -> np.ndarray:
    """Matrix [4n, n] that turns n control points into a closed Catmull-Rom curve of 4n points."""
    matrix = np.zeros((4 * n, n))
    for i in range(n):
        for k, t in enumerate((0, 0.25, 0.5, 0.75)):
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
            for j, weight in enumerate(weights):
                matrix[4 * i + k, (i + j - 1) % n] += weight / 2
    return matrix


def curve(*controls: tuple[float, float]) -> np.ndarray:
    """Closed smooth curve through the control points."""
    return spline(len(controls)) @ np.array(controls)


def symmetric(*half: tuple[float, float]) -> np.ndarray:
    """Closed smooth curve through `half` (x >= 0, from top to bottom) and its mirror image; x = 0 stands once."""
    mirrored = [(-x, y) for x, y in reversed(half) if x]
    return curve(*half, *mirrored)


def both(points: np.ndarray) -> list[np.ndarray]:
    """A part of the right half of the image (x > 0) and its mirror image."""
    return [points * side for side in RIGHT_AND_LEFT]


def ramp(table: np.ndarray, t: float) -> np.ndarray:
    """Colour [3] at t in [0, 1] along the table's rows."""
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
                           brows=mix(mix(skin, hair, 0.85), np.array([24.0, 18, 16]), p.brow_dark - 0.3),
                           dark=skin * np.array([0.42, 0.34, 0.34]))


def landmarks(p: SimpleNamespace) -> np.ndarray:
    """Left eye, right eye, nose tip, left and right mouth corner [5, 2], left and right as seen in the image."""
    half, corner = mouth_half(p), mouth_corner(p)
    return np.array([[-0.5, 0], [0.5, 0], [0, p.nose_y], [-half, corner], [half, corner]])


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
    return [Shape([np.array([(w, 0.9), (w, 2.0), (1.25 * w, 2.6), (-1.25 * w, 2.6), (-w, 2.0), (-w, 0.9)])],
                  0.72 * c.skin)]


def head(p, c) -> list[Shape]:
    drop = 0.45 * opening(p)
    ear_x = p.cheek_width + p.ear_out - 0.02
    ear = CIRCLE * [0.16, p.ear_size] + [ear_x, p.ear_y]
    shell = CIRCLE[-5:7] * [0.08, 0.62 * p.ear_size] + [ear_x + 0.03, p.ear_y]
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
        right = curve(*outer, *inner)
        shapes.append(Shape([right], mix(c.skin, 0.9 * c.hair, 0.45 + 0.6 * p.beard)))
        shapes.append(Shape([right * RIGHT_AND_LEFT[1]], shapes[0].colour))
    if p.moustache > 0:
        y = p.mouth_y - p.upper_lip - 0.02
        shapes.append(Shape([symmetric((0, y - 0.14), (0.55 * half, y - 0.13), (1.1 * half, y + 0.09), (0, y))],
                            mix(c.skin, 0.9 * c.hair, 0.45 + 0.7 * p.moustache)))
    return shapes


def nose(p, c) -> list[Shape]:
    half = 0.5 * p.nose_width
    wing = np.array([(0.78 * half, p.nose_y - 0.14), (1.02 * half, p.nose_y - 0.02), (0.98 * half, p.nose_y + 0.08),
                     (0.72 * half, p.nose_y + 0.12)])
    nostril = CIRCLE * [p.nostril, 0.5 * p.nostril] + [p.nostril_x, p.nose_y + 0.12]
    under = np.stack([0.5 * p.nostril_x * T, p.nose_y + 0.16 - 0.02 * T**2], 1)
    shade = mix(c.skin, c.dark, p.wing_line)
    return [Shape(both(wing), shade, 0.035), Shape([under], shade, 0.03), Shape(both(nostril), 0.75 * c.dark)]


def opening(p) -> float:
    """How far the lips are apart."""
    return max(p.mouth_open + 0.05 * max(p.smile, 0), 0.0)


def mouth_half(p) -> float:
    """Half the distance between the corners of the mouth, with expression."""
    return 0.5 * p.mouth_width * (1 + 0.16 * p.smile - 0.18 * max(p.pucker, 0))


def mouth_corner(p) -> float:
    """Height of the corners of the mouth, with expression."""
    return p.mouth_y + p.corner_y - 0.07 * p.smile


def mouth(p, c) -> list[Shape]:
    half, gap, x = mouth_half(p), opening(p), T * mouth_half(p)
    round_off = 1 - T**2
    seam = p.mouth_y + (mouth_corner(p) - p.mouth_y) * T**2
    full = 1 + 0.5 * max(p.pucker, 0)
    top = seam - full * (p.upper_lip * round_off - p.cupid * np.exp(-(T / 0.18) ** 2))
    below = seam + gap * round_off
    bottom = below + full * p.lower_lip * round_off ** 0.8
    teeth = seam + 0.6 * gap * round_off
    line = [np.stack([x, seam], 1)] + ([np.stack([x, below], 1)] if gap > 0.02 else [])
    return [Shape([band(x, top, seam)], 0.88 * c.lips), Shape([band(x, below, bottom)], c.lips),
            Shape([band(x, seam, below)], 0.45 * c.dark),
            *([Shape([band(0.85 * x, seam, teeth)], np.array([226.0, 220, 206]))] if gap > 0.04 else []),
            Shape(line, mix(c.lips, c.dark, 0.75), 0.025),
            Shape([np.stack([0.45 * x, bottom + 0.06], 1)], 0.84 * c.skin, 0.04 + 0.02 * half)]


def band(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """The polygon between two curves over the same x."""
    return np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]])


def eyes(p, c) -> list[Shape]:
    """Both eyes; gaze shifts both irises the same way, so each side is built for itself."""
    half = 0.5 * p.eye_width
    tall = p.eye_height * max(1 - max(p.eye_close, 0) ** 1.5 * 3 - 0.12 * max(p.smile, 0), 0.06)
    lens = 1 - np.abs(T + p.eye_skew * (1 - T**2)) ** 2.2
    upper, lower = -0.58 * tall * lens - p.eye_tilt * T, 0.42 * tall * lens - p.eye_tilt * T
    fold = upper - p.lid_fold * (1 - 0.6 * T**2)
    x = half * T
    white, lash, crease, iris, pupil, light = [], [], [], [], [], []
    for side in RIGHT_AND_LEFT:
        centre = np.array([0.5, 0.0]) * side

        def placed(*curves, side=side, centre=centre):
            return [points * side + centre for points in curves]

        white += placed(band(x, upper, lower))
        lash += placed(np.stack([x, upper], 1))
        crease += placed(np.stack([1.05 * x, fold], 1))
        for radius, polygons in ((p.iris, iris), (0.45 * p.iris, pupil)):
            disc = CIRCLE * radius + [p.gaze_x * side[0], p.gaze_y]
            disc[:, 1] = np.clip(disc[:, 1], np.interp(disc[:, 0], x, upper), np.interp(disc[:, 0], x, lower))
            polygons += placed(disc)
        light.append(0.25 * p.iris * CIRCLE + centre + [p.gaze_x + 0.04, p.gaze_y - 0.04])
    shapes = [Shape(crease, mix(c.skin, c.dark, 0.55), 0.025), Shape(white, np.array([226.0, 220, 214])),
              Shape(iris, c.eyes), Shape(pupil, np.array([14.0, 12, 12]))]
    if tall > 0.1:
        shapes.append(Shape(light, np.array([240.0, 240, 240])))
    return [*shapes, Shape(lash, mix(c.brows, np.array([20.0, 14, 12]), 0.6), p.lid_line)]


def brows(p, c) -> list[Shape]:
    s = np.linspace(0, 1, 7)
    x = p.brow_in + p.frown * -0.6 + p.brow_length * s
    middle = (p.brow_y - p.brow_raise + p.frown * (1 - s) - p.brow_arch * np.sin(np.pi * s**1.3)
              - p.brow_tilt * (s - 0.5))
    thick = 0.5 * max(p.brow_thick, 0.02) * (1 - p.brow_taper * s) * np.minimum(1, 5 * (1.04 - s))
    return [Shape(both(band(x, middle - thick, middle + thick)), c.brows)]


def hair_in_front(p, c) -> list[Shape]:
    if p.hairline_y < -1.36:                                         # bald above, perhaps a ring at the sides
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
    parted = np.array([(0.5 * p.parting, low), (0.45 * p.parting, 0.6 * low + 0.4 * top), (0.35 * p.parting, top)])
    return [Shape([curve(*line, *outside)], c.hair), Shape([parted], 0.6 * c.hair, 0.03)]


def clothes(rng: np.random.Generator) -> list[Shape]:
    """Shoulders and collar of any colour."""
    y, colour = rng.uniform(1.95, 2.3), rng.uniform(20, 230, 3)
    shoulders = symmetric((0, y + rng.uniform(0, 0.35)), (0.7, y - 0.05), (1.7, y + 0.25), (2.6, y + 0.7), (2.6, 3.5),
                          (0, 3.5))
    return [Shape([shoulders], colour)]


def glasses(p: SimpleNamespace, rng: np.random.Generator) -> list[Shape]:
    """Spectacles, in one case of four with dark lenses."""
    wide, high = rng.uniform(0.30, 0.40), rng.uniform(0.20, 0.34)
    square = rng.uniform(0.6, 1.0)
    lens = np.sign(CIRCLE) * np.abs(CIRCLE) ** square * [wide, high] + [0.52, 0.05]
    frame = mix(np.array([30.0, 26, 24]), rng.uniform(20, 220, 3), rng.uniform(0, 0.6))
    rim = [np.concatenate([points, points[:1]]) for points in both(lens)]
    bridge = np.array([(-0.52 + wide, 0.0), (0, -0.05), (0.52 - wide, 0.0)])
    arm = np.array([(0.52 + wide, -0.02), (p.cheek_width + 0.05, -0.02)])
    dark = [Shape(both(lens), rng.uniform(15, 60, 3))] if rng.random() < 0.25 else []
    return [*dark, Shape([*rim, bridge, *both(arm)], frame, rng.uniform(0.03, 0.075))]


def cap(p: SimpleNamespace, rng: np.random.Generator) -> list[Shape]:
    """A cap or a hat pulled down to somewhere on the forehead."""
    y, w, colour = rng.uniform(-0.95, -0.6), p.cheek_width + 0.16, rng.uniform(15, 225, 3)
    crown = symmetric((0, p.crown_y - 0.5), (0.8 * w, p.crown_y - 0.25), (w, y - 0.3), (w, y), (0, y + 0.12))
    brim = symmetric((0, y - 0.05), (0.9 * w, y - 0.02), (1.1 * w, y + 0.12), (0, y + 0.16))
    return [Shape([crown], colour), Shape([brim], 0.7 * colour)]


def scarf(p: SimpleNamespace, rng: np.random.Generator) -> list[Shape]:
    """A scarf or mask over the lower face, up to the chin, the mouth or the nose."""
    y, w, colour = rng.uniform(0.75, 1.7), p.cheek_width, rng.uniform(15, 225, 3)
    return [Shape([symmetric((0, y), (0.6 * w, y + 0.05), (1.05 * w, y - 0.1), (1.1 * w, 2.2), (0, 2.6))], colour)]


def hand(p: SimpleNamespace, rng: np.random.Generator) -> list[Shape]:
    """A hand, a microphone or another blob that comes in from one side and covers a part of the face."""
    angle, reach = rng.uniform(-0.2, np.pi + 0.2), rng.uniform(0.45, 1.15)
    direction = np.array([np.cos(angle), np.sin(angle)])
    centre = np.array([0, 0.5]) + reach * direction
    size = rng.uniform(0.28, 0.55)
    blob = size * (1 + 0.25 * rng.uniform(-1, 1, (8, 1))) * CIRCLE[::2]
    arm = np.array([direction[::-1] * [-1, 1] * size * 0.8, direction[::-1] * [1, -1] * size * 0.8])
    sleeve = np.concatenate([centre + arm, centre + 3 * direction + arm[::-1]])
    colour = mix(ramp(SKIN, rng.uniform()), rng.uniform(15, 230, 3), float(rng.integers(2)))
    return [Shape([sleeve], 0.85 * colour), Shape([spline(8) @ blob + centre], colour)]


COVERS = (cap, scarf, hand)
