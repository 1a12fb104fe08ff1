"""Films and cameras, by OpenCV. Frames are uint8 (H, W, 3) BGR, as OpenCV's are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from u2seg.errors import DataError, UsageError
from u2seg.files import in_words, replacing
from u2seg.runtime import Progress

if TYPE_CHECKING:
    import cv2

FRAMES_PER_SECOND = 25.0
"""Where a source does not tell."""

ESCAPE, WINDOW = 27, "u2seg"


@contextlib.contextmanager
def opened(source: str | int) -> Iterator[cv2.VideoCapture]:
    """Open a film (its path) or a camera (its number).

    Raises:
        UsageError: there is no such file or camera.
        DataError: the file is no film.
    """
    import cv2

    if isinstance(source, str) and not Path(source).is_file():
        raise UsageError(f"--video-input {source!r} does not exist")
    capture = _quietly(lambda: cv2.VideoCapture(source))
    try:
        if not capture.isOpened():
            if isinstance(source, str):
                raise DataError(f"--video-input {source!r} is no film that OpenCV can read")
            raise UsageError(f"no camera {source} can be opened (--webcam)")
        yield capture
    finally:
        capture.release()


def _quietly(call: Callable[[], cv2.VideoCapture]) -> cv2.VideoCapture:
    """``call()`` without OpenCV's own lines on stderr, which come before ours."""
    import cv2

    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return call()
    finally:
        cv2.utils.logging.setLogLevel(level)


def frames(capture: cv2.VideoCapture, title: str) -> Iterator[np.ndarray]:
    """Frames of ``capture`` until it ends, with progress.

    Raises:
        DataError: there is not one.
    """
    import cv2

    with Progress(title, max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0), unit="frame") as progress:
        while True:
            success, frame = capture.read()
            if not success:
                break
            yield frame
            progress.advance()
        if not progress.done:
            raise DataError(f"{title}: not one frame can be read")


def write_film(drawn: Iterator[np.ndarray], path: Path, rate: float, keep_interrupted: bool = False) -> int:
    """Write frames to an MP4 file, whole or not at all.

    Args:
        drawn: frames of one size.
        path: the file; its folder is made.
        rate: frames a second; 0 for unknown.
        keep_interrupted: whether Ctrl-C ends the film rather than the program, as with a camera.

    Returns:
        How many frames it has.

    Raises:
        UsageError: the file can't be written.
    """
    writer, count = None, 0
    with in_words(path), replacing(path) as part:
        try:
            for frame in drawn:
                writer = writer or _open_writer(part, frame, rate)
                writer.write(np.ascontiguousarray(frame))
                count += 1
        except KeyboardInterrupt:
            if not keep_interrupted:
                raise
        finally:
            if writer is None:
                part.unlink()
            else:
                writer.release()
    return count


def _open_writer(path: Path, frame: np.ndarray, rate: float) -> cv2.VideoWriter:
    import cv2

    height, width = frame.shape[:2]
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), code, rate if rate > 0 else FRAMES_PER_SECOND, (width, height))
    if not writer.isOpened():
        raise UsageError(f"this OpenCV can't write MP4 films of {width} x {height} pixels")
    return writer


def show_film(drawn: Iterator[np.ndarray]) -> int:
    """Show frames in a window until they end or Esc is pressed; return how many were shown.

    Raises:
        UsageError: no window can be opened here.
    """
    import cv2

    count = 0
    open_window()
    for frame in drawn:
        cv2.imshow(WINDOW, frame)
        count += 1
        if cv2.waitKey(1) == ESCAPE:
            break
    cv2.destroyAllWindows()
    return count


def show_picture(picture: np.ndarray) -> bool:
    """Show one frame until a key is pressed; return False for Esc.

    Raises:
        UsageError: no window can be opened here.
    """
    import cv2

    open_window()
    cv2.imshow(WINDOW, picture)
    return cv2.waitKey(0) != ESCAPE


def open_window() -> None:
    """Open the window, so that it is known to work before the network runs.

    Raises:
        UsageError: it can't be.
    """
    import cv2

    try:
        cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
    except cv2.error as error:
        raise UsageError("no window can be opened here (OpenCV without one, or no screen): name an --output") from error
