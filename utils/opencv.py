"""OpenCV with a limit on the size of an image: every module gets cv2 from here, ``from utils.opencv import cv2``.

OpenCV compares width x height of a header with the limit before it allocates the pixels: a file of 1 KB can ask for
gigabytes.  It reads the limit from the environment when it is loaded, so the limit is set first; processes that this one
starts inherit it.  Who needs larger images sets the variable before the start.
"""

import os
import sys

LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"
MAX_PIXELS = 1 << 25        # pixels of an image: 33 million, 100 MB when decoded

if "cv2" in sys.modules and LIMIT not in os.environ:
    raise ImportError("cv2 was imported before utils.opencv, which limits the pixels of an image; "
                      "write `from utils.opencv import cv2`")
os.environ.setdefault(LIMIT, str(MAX_PIXELS))
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")        # what cannot be decoded is reported by its name, once, by this project
import cv2

__all__ = ["LIMIT", "MAX_PIXELS", "cv2"]
