"""One picture of an identity: pose, expression, light, covers and camera, drawn with OpenCV.

The contours are put on the surface of the head, rotated, projected and filled; light falls on the normals of the person; a
camera with tone curve, blur and noise takes the picture.  The number `scene` chooses styling, light, clothes and covers, the
number `image` pose, expression and camera, so that pictures of one scene differ like the frames of a video.
"""

from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from tools.rehearsal import contours
from tools.rehearsal.contours import Shape
from tools.rehearsal.identity import CELL, FRAME, MIDDLE_Y, SCENE, SPAN, Identity, displacement, draws, height, varied
from utils.opencv import cv2

# Five landmarks of the aligned 112 x 112 crop (insightface's), x + iy.
TEMPLATE = np.array([38.2946 + 51.6963j, 73.5318 + 51.5014j, 56.0252 + 71.7366j, 41.5493 + 92.3655j,
                     70.7299 + 92.2041j])
HALF = 0.5 + 0.5j        # drawing counts from the edge of the first pixel, the template and landmarks from its centre
PIVOT = np.array([0.0, 0.35, -0.35])                                 # the head turns about this point


@dataclass(frozen=True)
class Difficulty:
    """Strength of everything that changes between two pictures of one person; all 0: passport photographs."""
    yaw: float = 20.0          # degrees, standard deviation
    pitch: float = 10.0        # degrees, standard deviation
    roll: float = 9.0          # degrees, standard deviation (alignment removes most of it)
    sway: float = 1.0          # factor on the columns `scene` and `frame` of the parameter table
    light: float = 1.0         # movement of the lamp from the front, and depth of the shadows
    exposure: float = 0.30     # standard deviation of the logarithm of the overall gain
    tint: float = 0.10         # standard deviation of the logarithm of each colour channel's gain
    contrast: float = 0.18     # standard deviation of the logarithm of gamma
    blur: float = 0.035        # mean of the Gaussian's sigma, in distances between the eyes
    noise: float = 6.0         # mean amplitude, in grey levels
    covers: float = 0.22       # probability of a cap, a scarf or a hand
    detector: float = 0.030    # error of the five landmarks, in distances between the eyes, standard deviation
    compression: float = 1.0   # 0: JPEG quality 95; 1: 55 to 95

    def scaled(self, factor: float) -> "Difficulty":
        """The same with every strength multiplied by `factor`."""
        return Difficulty(*[factor * getattr(self, field.name) for field in fields(self)])


class Picture(NamedTuple):
    """rgb: uint8 [H, W, 3].  landmarks: float32 [5, 2], x and y in pixels, with the errors of a detector.

    quality: 0 (unusable) to 1 (sharp, frontal, free).  jpeg: quality at which the picture should be stored.
    """
    rgb: np.ndarray
    landmarks: np.ndarray
    quality: float
    jpeg: int


class View(NamedTuple):
    """How the camera sees the head: rotation of the head [3, 3], and distance of the camera in distances between the eyes."""
    rotation: np.ndarray
    distance: float


class Place(NamedTuple):
    """A similarity of the plane: from points that the camera sees to their places in the picture, in pixels."""
    factor: complex
    shift: complex

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.factor * points + self.shift

    def enlarged(self, times: float) -> "Place":
        return Place(self.factor * times, self.shift * times)


def render(who: Identity, image: int, size: int, difficulty: Difficulty | None = None, *, scene: int | None = None,
           loose: bool = False) -> Picture:
    """Picture number `image` of a person.

    size: side of the aligned crop in pixels.  loose: a photograph 1.35 to 1.65 times as wide instead of the crop, with the
    head at 0.85 to 1.2 times the scale of the crop and not rotated upright.  scene: None means `image`, a scene for this
    picture alone.  Equal arguments give equal pixels, whatever was drawn before.
    """
    difficulty = difficulty or Difficulty()
    styling = draws(who.seed, SCENE, who.number, image if scene is None else scene)
    frame = draws(who.seed, FRAME, who.number, image)
    p = varied(who, styling, frame, difficulty.sway)
    covered, shapes = dressed(p, styling, difficulty)
    marks = contours.landmarks(p)
    view = camera_view(frame, difficulty)
    seen = project(who, p, view, np.concatenate([marks, *[polygon for shape in shapes for polygon in shape.polygons]]))
    true, seen = np.split(seen, [len(marks)])
    unit = abs(true[1] - true[0])
    detected = true + difficulty.detector * unit * complex_normal(frame, len(marks))
    place, side = loosely(detected, size, frame) if loose else (aligned(detected, size), (size, size))

    fine = -(-64 // size)                                            # small pictures are drawn larger, and shrunk
    drawn = place.enlarged(fine)
    canvas = background(styling, side[0] * fine, side[1] * fine)
    paint(canvas, shapes, drawn(seen), abs(drawn.factor))
    canvas = lit(canvas, who, p, view, drawn, styling, difficulty)
    rgb, harm = photographed(canvas, side, unit * abs(drawn.factor), styling, frame, difficulty)
    quality = np.exp(-(harm + 2.2 * (1 - view.rotation[2, 2]) + 0.35 * covered))
    jpeg = int(95 - 40 * min(difficulty.compression, 2.0) * frame.random() ** 2)
    landmarks = place(detected) - HALF
    return Picture(rgb, np.stack([landmarks.real, landmarks.imag], 1).astype(np.float32), float(quality), jpeg)


def complex_normal(rng: np.random.Generator, n: int) -> np.ndarray:
    """n random points of the plane as complex numbers, with variance 1 in x and in y."""
    x, y = rng.standard_normal((2, n))
    return x + 1j * y


def camera_view(frame: np.random.Generator, difficulty: Difficulty) -> View:
    """Pose of the head and distance of the camera."""
    yaw, pitch, roll = np.radians(np.clip(frame.standard_normal(3), -2.2, 2.2)
                                  * [difficulty.yaw, difficulty.pitch, difficulty.roll])
    (cy, sy), (cp, sp), (cr, sr) = [(np.cos(a), np.sin(a)) for a in (yaw, pitch, roll)]
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return View(tilt @ nod @ turn, frame.uniform(7, 25))


def project(who: Identity, p: SimpleNamespace, view: View, points: np.ndarray) -> np.ndarray:
    """Points in frontal face coordinates, complex [n] -> where the camera sees them, complex [n], in about the same units."""
    x, y = points.real, points.imag
    dx, dy = displacement(who.fields, x, y)
    offset = [x + dx - PIVOT[0], y + dy - PIVOT[1], height(p, x, y) - PIVOT[2]]
    right, down, near = view.rotation @ np.array(offset)
    return (right + 1j * down) / (1 - near / view.distance)


def aligned(landmarks: np.ndarray, size: int) -> Place:
    """The place for which the landmarks fit the template of a size x size crop best (least squares)."""
    target = (TEMPLATE + HALF) * size / 112
    a, b = landmarks - landmarks.mean(), target - target.mean()
    factor = np.vdot(a, b) / np.vdot(a, a).real
    return Place(factor, target.mean() - factor * landmarks.mean())


def loosely(landmarks: np.ndarray, size: int, frame: np.random.Generator) -> tuple[Place, tuple[int, int]]:
    """A place, without rotation, in a photograph about 1.45 times as wide as a crop; (width, height) of the photograph."""
    factor = abs(aligned(landmarks, size).factor) * frame.uniform(0.85, 1.2)
    width, tall = np.rint(size * frame.uniform(1.35, 1.65) * np.array([1, 1.08])).astype(int).tolist()
    middle = complex(0.5 * width, 0.53 * tall) + 0.05 * size * complex_normal(frame, 1)[0]
    return Place(factor, middle - factor * landmarks.mean()), (width, tall)


def dressed(p: SimpleNamespace, styling: np.random.Generator, difficulty: Difficulty) -> tuple[int, list[Shape]]:
    """(number of things that hide a part of the face, all shapes in painting order)."""
    shapes, covered = [*contours.clothes(styling), *contours.face(p)], 0
    if p.glasses > 0:
        shapes += contours.glasses(p, styling)
    if styling.random() < difficulty.covers:
        shapes += contours.COVERS[styling.integers(len(contours.COVERS))](p, styling)
        covered = 1
    return covered, shapes


def background(styling: np.random.Generator, width: int, tall: int) -> np.ndarray:
    """A canvas [tall, width, 3] with a few soft blotches of colour."""
    colour = styling.uniform(15, 240) + 30 * styling.standard_normal(3)
    blotches = styling.standard_normal((5, 5, 1)) + 0.4 * styling.standard_normal((5, 5, 3))
    field = np.clip(colour + styling.uniform(5, 45) * blotches, 0, 255).astype(np.uint8)
    return cv2.resize(field, (width, tall), interpolation=cv2.INTER_LINEAR)


def paint(canvas: np.ndarray, shapes: list[Shape], points: np.ndarray, scale: float) -> None:
    """Fill polygons and draw lines in order.  points: all polygons of all shapes, in pixels of the canvas."""
    pixels = np.rint(16 * np.array([points.real - HALF.real, points.imag - HALF.imag]).T).astype(np.int32)
    end = 0
    for shape in shapes:
        colour = np.minimum(shape.colour, 255).tolist()
        width = max(1, round(shape.width * scale))
        for polygon in shape.polygons:
            start, end = end, end + len(polygon)
            if shape.width:
                cv2.polylines(canvas, [pixels[start:end]], False, colour, width, cv2.LINE_AA, 4)
            else:
                cv2.fillPoly(canvas, [pixels[start:end]], colour, cv2.LINE_AA, 4)


def lit(canvas: np.ndarray, who: Identity, p: SimpleNamespace, view: View, place: Place,
        styling: np.random.Generator, difficulty: Difficulty) -> np.ndarray:
    """The canvas times the light on the normals of the person and the colour factors of the skin."""
    azimuth, elevation = np.array([0.0, 0.35]) + difficulty.light * np.array([0.75, 0.4]) * styling.standard_normal(2)
    lamp = np.array([np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    key = min(max(0.65 + 0.2 * difficulty.light * styling.standard_normal(), 0.2), 1.1)
    warm = np.exp(difficulty.tint * styling.standard_normal(3))
    falling = cv2.transform(who.normals, np.outer(key * warm, lamp @ view.rotation))
    light = (np.maximum(falling, 0) + np.float32(1.12 - 0.75 * key)) * who.skin
    places = face_map(canvas, p, view, place)
    # OpenCV's stub wants two maps; one of x and y is documented, too.
    seen = cv2.remap(light, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)   # type: ignore[call-overload]
    return cv2.multiply(canvas, seen, dtype=cv2.CV_8U)


def face_map(canvas: np.ndarray, p: SimpleNamespace, view: View, place: Place) -> np.ndarray:
    """For each pixel, the cell (x, y) of the identity's maps that the camera sees there, float32 [H, W, 2].

    The projection is inverted on a coarse grid by fixed-point steps, because the point depends on its own depth.
    """
    tall, wide = canvas.shape[:2]
    steps = (np.arange(24) + 0.5) / 24
    seen = (steps * wide + 1j * steps[:, None] * tall - place.shift) / place.factor
    u, v = seen.real.astype(np.float32), seen.imag.astype(np.float32)
    # one linear map: face point = inverse @ (seen + turned pivot - depth * slide)
    inverse, slide = np.linalg.inv(view.rotation[:2, :2]), view.rotation[:2, 2]
    (a, b), (c, d) = inverse.tolist()
    x0, y0 = (inverse @ (view.rotation @ PIVOT)[:2]).tolist()
    dx, dy = (inverse @ slide).tolist()
    straight_x, straight_y = a * u + b * v + x0, c * u + d * v + y0
    x, y = straight_x, straight_y
    for _ in range(2):
        depth = np.maximum(height(p, x, y), -0.4)
        x, y = straight_x - dx * depth, straight_y - dy * depth
    cells = cv2.merge([(x + SPAN) / CELL - 0.5, (y - MIDDLE_Y + SPAN) / CELL - 0.5])
    return cv2.resize(cells, (wide, tall), interpolation=cv2.INTER_LINEAR)


def photographed(canvas: np.ndarray, side: tuple[int, int], unit: float, styling: np.random.Generator,
                 frame: np.random.Generator, difficulty: Difficulty) -> tuple[np.ndarray, float]:
    """(the picture that the camera takes, uint8 [H, W, 3]; how much worse it is than the canvas, 0 = not at all).

    unit: distance between the eyes on the canvas, in pixels.
    """
    gain = difficulty.exposure * styling.standard_normal()
    gamma = np.exp(difficulty.contrast * styling.standard_normal())
    colour = np.exp(gain + difficulty.tint * styling.standard_normal(3))
    levels = np.linspace(0, 1, 256)[:, None] ** gamma * colour
    levels = levels / (1 + np.maximum(levels - 0.8, 0))              # bright values approach white gradually
    canvas = cv2.LUT(canvas, np.clip(255 * levels, 0, 255).astype(np.uint8)[None])
    sigma = difficulty.blur * frame.exponential()
    smear = sigma * np.array([frame.uniform(0.3, 1), 1])[:: frame.choice([-1, 1])]
    if sigma * unit > 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), *np.maximum(smear * unit, 0.05))
    if canvas.shape[:2] != side[::-1]:
        canvas = cv2.resize(canvas, side, interpolation=cv2.INTER_AREA)
    grain = difficulty.noise * frame.exponential()
    noise = frame.integers(0, 256, canvas.shape, np.uint8)
    # uniform noise in [0, 255] has standard deviation 73.6; the sum saturates at 0 and 255, as in a sensor
    strength = min(grain, 30.0) / 73.6
    rgb = cv2.addWeighted(canvas, 1.0, noise, strength, -127.5 * strength)
    return rgb, 2.5 * sigma + 0.012 * grain + 0.25 * abs(gain)
