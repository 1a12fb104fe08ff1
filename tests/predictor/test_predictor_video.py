"""Films in, films out."""

import cv2
import numpy as np
import pytest
from predictor_model import make_photo

from u2seg.engine import video
from u2seg.engine.demo import film_path, run_film
from u2seg.errors import DataError, UsageError


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (80, 60))
    for seed in range(4):
        writer.write(make_photo(60, 80, seed)[:, :, ::-1])
    writer.release()
    return path


def read(path):
    with video.opened(str(path)) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS)
        return list(video.frames(capture, "film")), rate


def test_every_frame_of_a_film_is_segmented(predictor, film, tmp_path):
    count, path = run_film(predictor, str(film), str(tmp_path / "out"))
    assert (count, path) == (4, tmp_path / "out" / "film.mp4")
    before, rate = read(film)
    after, rate_after = read(path)
    assert len(after) == 4
    assert rate_after == rate == 10.0
    for frame, drawn in zip(before, after, strict=True):
        expected = predictor(np.ascontiguousarray(frame[:, :, ::-1])).draw()[:, :, ::-1].astype(float)
        # MPEG-4 loses a little; the frame without its segments is much farther off
        assert np.abs(drawn - expected).mean() < 0.5 * np.abs(frame - expected).mean()
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["film.mp4"]


def test_the_demo_class_yields_the_frames_of_a_capture(tiny, film):
    from u2seg.engine.config import load_config
    from u2seg.engine.predictor import VisualizationDemo

    demo = VisualizationDemo(load_config(tiny.config, ["MODEL.WEIGHTS", tiny.weights]))
    with video.opened(str(film)) as capture:
        drawn = list(demo.run_on_video(capture))
    assert [frame.shape for frame in drawn] == [(60, 80, 3)] * 4


def test_an_interrupted_film_is_absent_and_what_a_camera_saw_is_kept(tmp_path):
    def some():
        for seed in range(3):
            yield make_photo(60, 80, seed)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.write_film(some(), tmp_path / "a.mp4", 10)
    assert not list(tmp_path.iterdir())
    assert video.write_film(some(), tmp_path / "b.mp4", 10, keep_interrupted=True) == 3
    assert len(read(tmp_path / "b.mp4")[0]) == 3


def test_what_is_no_film_or_camera_is_said(predictor, film, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        run_film(predictor, str(tmp_path / "gone.mp4"), str(tmp_path))
    text = tmp_path / "text.mp4"
    text.write_text("no film")
    with pytest.raises(DataError, match="is no film"):
        run_film(predictor, str(text), str(tmp_path / "out"))
    with pytest.raises(UsageError, match="no camera 91 can be opened"):
        run_film(predictor, 91, str(tmp_path))
    with pytest.raises(UsageError, match="would replace the film itself"):
        run_film(predictor, str(film), str(tmp_path))
    with pytest.raises(UsageError, match="can't be written: Not a directory"):
        run_film(predictor, str(film), str(film / "below"))
    with pytest.raises(UsageError, match=r"written as \.mp4"):
        film_path(0, "out.avi")
    assert film_path(0, "out").name == "camera_0.mp4"


def test_without_a_screen_a_window_is_refused(predictor, film):
    if "GUI:                           NONE" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has windows")
    with pytest.raises(UsageError, match="no window can be opened"):
        run_film(predictor, str(film))
