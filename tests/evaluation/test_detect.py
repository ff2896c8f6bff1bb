"""Detection and alignment: which face is chosen, where its landmarks are in the photograph, and what is cut out."""

import cv2
import numpy as np
import pytest
from photo_toys import write_stub_detector

from evaluation.align import TEMPLATE, target
from evaluation.detect import Detector, aligned, loose_crop, reduced
from utils.errors import UserError


class Boxes(Detector):
    """A detector whose network always gives these rows."""

    def __init__(self, rows, choose="largest"):
        self.rows, self.choose = np.array(rows, float), choose

    def boxes(self, canvas):
        assert canvas.shape == (640, 640, 3)
        return self.rows.reshape(-1, 15)


def row(x, y, width, height, score=0.9) -> list[float]:
    """A box with landmarks at fixed shares of it."""
    shares = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    return [x, y, width, height, *(v for a, b in shares for v in (x + a * width, y + b * height)), score]


def test_the_largest_face_or_the_one_in_the_middle():
    rows = [row(0, 0, 100, 120), row(140, 90, 30, 30), row(250, 0, 60, 60, 0.99)]
    image = np.zeros((200, 320, 3), np.uint8)
    assert np.allclose(Boxes(rows)(image).landmarks[0], (30, 48))
    assert np.allclose(Boxes(rows, "centre")(image).landmarks[0], (149, 102))           # box centre (155, 105); image (160, 100)
    assert Boxes(rows)(image).score == 0.9 and Boxes(rows, "centre")(np.zeros((200, 620, 3), np.uint8)).score == 0.99


def test_no_face_and_faces_that_are_no_use():
    image = np.zeros((50, 50, 3), np.uint8)
    assert Boxes([])(image) is None
    assert Boxes([row(1, 1, 20, np.nan)])(image) is None
    assert Boxes([[1, 1, 20, 20, *[7] * 10, 0.9]])(image) is None                       # five times the same point
    found = Boxes([row(1, 1, np.inf, 90), row(2, 2, 10, 10, 0.8)])(image)
    assert found.score == 0.8


@pytest.mark.parametrize("height, width", [(1280, 960), (1920, 3000), (640, 640), (300, 200), (100, 1281)])
def test_landmarks_are_pixels_of_the_photograph(height, width):
    """A photograph that is larger than the canvas is reduced; x of its pixel edges is then x / shrink."""
    shrink = min(1, 640 / max(height, width))
    size = round(width * shrink), round(height * shrink)
    found = Boxes([row(10, 20, 30, 40)])(np.zeros((height, width, 3), np.uint8)).landmarks
    for k, (x, y) in enumerate(np.reshape(row(10, 20, 30, 40)[4:14], (5, 2))):
        assert found[k] == pytest.approx(((x + 0.5) * width / size[0] - 0.5, (y + 0.5) * height / size[1] - 0.5))


def test_a_network_that_opencv_runs(tmp_path):
    """The stub's face is where the picture is red: its cell of 32 pixels at (128, 64) gives the largest box."""
    detector = Detector(write_stub_detector(tmp_path / "stub.onnx"))
    image = np.zeros((200, 300, 3), np.uint8)
    assert detector(image) is None
    image[64:96, 128:160, 2] = 255
    face = detector(image)
    assert face.score == pytest.approx(1)
    assert np.allclose(face.landmarks, [(112, 48), (176, 48), (144, 80), (112, 112), (176, 112)])
    image[64:96, 128:160] = (255, 0, 0)                                 # blue in BGR: the order of colours
    assert detector(image) is None


def test_files_that_are_no_detector(tmp_path):
    with pytest.raises(UserError, match="no file .*--detector"):
        Detector(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UserError, match="not a model file that OpenCV's FaceDetectorYN can use"):
        Detector(tmp_path / "text.onnx")
    import onnx
    from onnx import TensorProto, helper
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 640, 640])] for name in ("input", "out"))
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["out"])], "other", inputs, outputs, [])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(tmp_path / "other.onnx"))
    with pytest.raises(UserError, match="not a model file that OpenCV's FaceDetectorYN can use"):
        Detector(tmp_path / "other.onnx")


def scene(scale: float, angle: float, shift) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a smooth aligned face BGR [112, 112, 3], the photograph that shows it scaled, turned and moved, its landmarks there)."""
    y, x = np.mgrid[:112, :112]
    face = np.stack([2 * x, 2 * y, 60 + x + y], 2).clip(0, 255).astype(np.uint8)
    a = scale * np.exp(1j * angle)
    matrix = np.array([[a.real, -a.imag, shift[0]], [a.imag, a.real, shift[1]]])
    photo = cv2.warpAffine(face, matrix, (1400, 1200), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return face, photo, TEMPLATE @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize("scale, angle", [(1, 0), (0.7, 0.3), (2.5, -0.5), (6, 0.2)])
def test_an_aligned_face_is_the_face(scale, angle):
    face, photo, landmarks = scene(scale, angle, (500, 300))
    for size in (112, 32):
        expected = cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA) if size < 112 else face
        made = aligned(photo, landmarks, size)
        edge = size // 10
        assert np.abs(made.astype(int) - expected)[edge:-edge, edge:-edge].max() <= 6


@pytest.mark.parametrize("scale, angle", [(0.7, 0.3), (2.5, -0.5), (6, 0.2)])
def test_a_loose_crop_holds_the_face_and_its_landmarks(scale, angle):
    face, photo, landmarks = scene(scale, angle, (500, 300))
    crop, inside = loose_crop(photo, landmarks)
    assert max(crop.shape) <= 2 * 1.6 * 112 + 4 and (inside > 0).all() and (inside < crop.shape[1::-1]).all()
    assert np.abs(aligned(crop, inside, 112).astype(int) - face)[11:-11, 11:-11].max() <= 6


def test_fine_stripes_become_grey_and_not_a_pattern():
    """A photograph of 8 times the size: each aligned pixel is the mean of 8 x 8 pixels, not one of them."""
    photo = np.zeros((8 * 112, 8 * 112, 3), np.uint8)
    photo[:] = 200
    photo[:, 3::4] = 0                                                  # one column in four: the mean is 150
    made = aligned(photo, target(8 * 112), 112)
    assert np.abs(made[2:-2, 2:-2].astype(int) - 150).max() <= 1


def test_small_faces_are_not_reduced():
    image, landmarks = np.zeros((90, 90, 3), np.uint8), target(90)
    assert reduced(image, landmarks, 112)[0] is image


def test_landmarks_outside_of_the_photograph():
    image = np.zeros((50, 50, 3), np.uint8)
    assert loose_crop(image, target(112) + 500)[0].size > 0
