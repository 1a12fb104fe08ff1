"""Films in, films out."""

import sys

import av
import cv2
import numpy as np
import pytest
from predictor_model import make_photo

from u2seg.engine.demo import film_path, segment_film
from u2seg.engine.predictor import Predictor, VisualizationDemo
from u2seg.errors import DataError, UsageError


def write(path, height=60, width=80, rotation=0):
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        if rotation:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV can't write a rotation")
            stream.set_display_rotation(rotation)
        for seed in range(4):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(make_photo(height, width, seed), format="rgb24")))
        film.mux(stream.encode())
    return path


def read(path):
    with av.open(str(path)) as film:
        rate = film.streams.video[0].average_rate
        return [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)], rate


def distance(a, b):
    return np.abs(a.astype(float) - b.astype(float)).mean()


def test_every_frame_of_a_film_is_segmented(predictor, tmp_path):
    film = write(tmp_path / "film.mp4")
    path = film_path(str(film), str(tmp_path / "out"))
    assert segment_film(predictor, str(film), path) == 4
    before, rate = read(film)
    after, rate_after = read(path)
    assert len(after) == 4
    assert rate_after == rate == 10
    for frame, drawn in zip(before, after, strict=True):
        expected = predictor(frame).draw()
        # a film loses a little; the frame without its segments is much farther off
        assert distance(drawn, expected) < 0.5 * distance(frame, expected)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["film.mp4"]


def test_a_film_of_a_turned_phone_is_upright_and_odd_sizes_are_padded(predictor, tmp_path):
    film = write(tmp_path / "film.mp4", 61, 81, rotation=90)
    segment_film(predictor, str(film), tmp_path / "out.mp4")
    reader = cv2.VideoCapture(str(film))  # turns it too
    upright = reader.read()[1][:, :, ::-1]
    expected = predictor(np.ascontiguousarray(upright)).draw()
    assert expected.shape == (81, 61, 3)
    (drawn, *_), _ = read(tmp_path / "out.mp4")
    assert drawn.shape == (82, 62, 3)
    assert distance(drawn[:81, :61], expected) < 0.5 * distance(upright, expected)


def test_the_demo_class_yields_the_frames_of_a_capture(tiny, tmp_path):
    from u2seg.engine.config import load_config

    demo = VisualizationDemo(load_config(tiny.config, ["MODEL.WEIGHTS", tiny.weights]))
    drawn = list(demo.run_on_video(cv2.VideoCapture(str(write(tmp_path / "film.mp4")))))
    assert [frame.shape for frame in drawn] == [(60, 80, 3)] * 4


def test_an_interrupted_film_is_absent(predictor, tmp_path, monkeypatch):
    film, calls = write(tmp_path / "film.mp4"), []

    def interrupted(self, image):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, image)

    whole = Predictor.__call__
    monkeypatch.setattr(Predictor, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        segment_film(predictor, str(film), tmp_path / "out.mp4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.mp4"]


def test_a_damaged_film_ends_where_it_can_not_be_read(predictor, tmp_path, caplog):
    film = write(tmp_path / "film.mp4")
    content = bytearray(film.read_bytes())
    start = content.index(b"mdat")
    size = int.from_bytes(content[start - 4 : start], "big")
    content[start + 4 + size // 3 : start - 4 + size] = bytes(size - 8 - size // 3)
    film.write_bytes(content)
    count = segment_film(predictor, str(film), tmp_path / "out.mp4")
    assert 0 < count < 4
    assert len(read(tmp_path / "out.mp4")[0]) == count
    assert f"what follows frame {count} is damaged" in caplog.text


def test_what_is_no_film_is_said(predictor, tmp_path, monkeypatch):
    film = write(tmp_path / "film.mp4")
    with pytest.raises(UsageError, match="does not exist"):
        film_path(str(tmp_path / "gone.mp4"), str(tmp_path))
    with pytest.raises(UsageError, match="would replace the film itself"):
        film_path(str(film), str(tmp_path))
    text = tmp_path / "text.mp4"
    text.write_text("no film")
    with pytest.raises(DataError, match="is no film"):
        segment_film(predictor, str(text), tmp_path / "out.mp4")
    with pytest.raises(UsageError, match="what should be its folder is a file"):
        segment_film(predictor, str(film), film / "out.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"pip install 'u2seg\[video\]'"):
        segment_film(predictor, str(film), tmp_path / "out.mp4")
