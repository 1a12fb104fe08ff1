"""Overlays: what is coloured, what is left, and how they are saved."""

import io

import numpy as np
import pytest
from PIL import Image
from predictor_model import make_photo

from u2seg.engine.results import ClassNames, Instances, PredictedSegment, Prediction
from u2seg.errors import UsageError
from u2seg.pseudo.merge import measure_segments
from u2seg.structures import LabelSpace, category_color


def empty_instances(height, width):
    return Instances(
        np.zeros((0, height, width), bool), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int), ()
    )


@pytest.fixture
def drawn():
    """A photo with a thing (1) on the left, stuff (2) on the right, nothing in between; id 3 has no pixel."""
    photo = make_photo(60, 90)
    ids = np.zeros((60, 90), np.int32)
    ids[:, :30], ids[:, 60:] = 1, 2
    names = ClassNames(LabelSpace(4, 2), {2: "car"})
    measured = measure_segments(ids, [0, 2, 5, 3], [0, 0.9, 0.8, 0.7], names.space)
    segments = tuple(PredictedSegment(**vars(segment), name=names[segment.category_id]) for segment in measured)
    return Prediction(photo, ids, segments, empty_instances(60, 90), names)


def test_segments_take_their_class_colour_and_the_rest_stays(drawn):
    before = drawn.image.copy()
    picture = drawn.draw(text=False)
    np.testing.assert_array_equal(drawn.image, before)
    assert picture.shape == (60, 90, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:, 32:58], drawn.image[:, 32:58])
    for columns, category in ((np.s_[2:28], 2), (np.s_[62:88], 5)):
        mixed = (drawn.image[2:58, columns].astype(float) + category_color(category)) / 2
        assert np.abs(picture[2:58, columns] - mixed).max() <= 2
    assert (drawn.draw() != picture).any()  # the names


def test_segments_without_a_pixel_are_left_out(drawn):
    assert [(s.id, s.name, s.isthing, s.area, s.bbox) for s in drawn.segments] == [
        (1, "car", True, 1800, (0, 0, 30, 60)),
        (2, "5", False, 1800, (60, 0, 30, 60)),
    ]


def test_nothing_found_is_the_photo():
    photo = make_photo(20, 30)
    ids, names = np.zeros((20, 30), np.int32), ClassNames(LabelSpace(1, 1))
    found = Prediction(photo, ids, (), empty_instances(20, 30), names)
    np.testing.assert_array_equal(found.draw(), photo)
    assert repr(found) == "Prediction(30 x 20 pixels; segments: none)"


def test_a_notebook_shows_the_picture(drawn):
    with Image.open(io.BytesIO(drawn._repr_png_())) as picture:
        np.testing.assert_array_equal(np.array(picture), drawn.draw())


def test_pictures_are_saved_whole_by_their_ending(drawn, tmp_path):
    assert drawn.save(tmp_path / "new" / "a.png") == tmp_path / "new" / "a.png"
    assert drawn.save(tmp_path / "b").name == "b.png"
    drawn.save(tmp_path / "c.jpg")
    with Image.open(tmp_path / "c.jpg") as picture:
        assert picture.format == "JPEG"
    with pytest.raises(UsageError, match=r"no picture can be written as '\.txt'"):
        drawn.save(tmp_path / "d.txt")
    with pytest.raises(UsageError, match="can't be written: what should be its folder is a file"):
        drawn.save(tmp_path / "c.jpg" / "e.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "c.jpg", "new"]
