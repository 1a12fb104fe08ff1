from pathlib import Path

import pytest

from u2seg.errors import DataError
from u2seg.evaluation.labels import pair_images
from u2seg.panoptic import LabelledPhoto, PanopticDataset


def dataset(*names):
    photos = (LabelledPhoto(number, name, 2, 2, f"{number}.png", ()) for number, name in enumerate(names))
    return PanopticDataset(Path("panoptic.json"), Path(), Path(), (), tuple(photos))


def pair(first, second):
    gt, pseudo = dataset(*first), dataset(*second)
    places, left_out = pair_images(gt, pseudo)
    names = [(gt.photos[a].file_name, pseudo.photos[b].file_name) for a, b in places]
    return names, left_out["only_gt"], left_out["only_pseudo"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["a.jpg", "x/a.jpg"], ["x/a.jpg", "a.jpg"], ([("a.jpg", "a.jpg"), ("x/a.jpg", "x/a.jpg")], [], [])),
        (["val/a.jpg", "train/a.jpg"], ["c/train/a.jpg"], ([("train/a.jpg", "c/train/a.jpg")], ["val/a.jpg"], [])),
        (["c/val/a.jpg", "c/val/b.jpg"], ["b.jpg"], ([("c/val/b.jpg", "b.jpg")], ["c/val/a.jpg"], [])),
        (["x/a.jpg", "y/a.jpg"], ["x/a.png", "y/a.png"], ([("x/a.jpg", "x/a.png"), ("y/a.jpg", "y/a.png")], [], [])),
        (["a.jpg"], ["nested/a.jpeg"], ([("a.jpg", "nested/a.jpeg")], [], [])),
        (
            ["x/a.jpg", "y/a.jpg", "b.jpg"],
            ["a.jpg", "b.jpg"],
            ([("b.jpg", "b.jpg")], ["x/a.jpg", "y/a.jpg"], ["a.jpg"]),
        ),
        (
            ["b.jpg", "x/a.jpg", "a.jpg"],
            ["b.jpg", "a.jpg"],
            ([("a.jpg", "a.jpg"), ("b.jpg", "b.jpg")], ["x/a.jpg"], []),
        ),
        (["1.tar.jpg"], ["1.tar.png"], ([("1.tar.jpg", "1.tar.png")], [], [])),
    ],
)
def test_by_whole_name_then_by_end_of_the_path_then_by_stem(first, second, expected):
    assert pair(first, second) == expected


@pytest.mark.parametrize("second", [["b.jpg"], [], ["x/a.jpg", "y/a.jpg"]])
def test_no_photo_left_is_an_error(second):
    with pytest.raises(DataError, match=r"no photo of panoptic.json \(1 photos such as 'a.jpg'\)"):
        pair(["a.jpg"], second)
