"""The one reader and writer of panoptic datasets."""

import json

import numpy as np
import pytest

from u2seg.errors import DataError, UsageError
from u2seg.files import write_png
from u2seg.panoptic import (
    Entry,
    decode_ids,
    decode_mask,
    encode_ids,
    instance_entry,
    read_ids,
    read_instances,
    read_panoptic,
    write_dataset,
)
from u2seg.structures import LabelSpace

SPACE = LabelSpace(2, 1)


@pytest.fixture
def dataset(tmp_path):
    """A dataset of one photo: a thing left of a stuff segment, with one void column."""
    ids = np.zeros((4, 6), np.int32)
    ids[:, :3], ids[:, 3:5] = 1, 70000
    write_png(tmp_path / "panoptic" / "a" / "b.png", encode_ids(ids))
    segments = [
        {"id": 1, "category_id": 2, "isthing": 1, "score": 0.5},
        {"id": 70000, "category_id": 3, "isthing": 0},
    ]
    entry = Entry(
        {"id": 7, "file_name": "a/b.jpg", "height": 4, "width": 6},
        "a/b.png",
        segments,
        [{**instance_entry(ids == 1, 2, 0.5), "segment_id": 1}],
    )
    write_dataset(tmp_path, {"image_root": "photos"}, SPACE.categories(), lambda: [entry])
    return tmp_path, ids


def change(root, edit):
    content = json.loads((root / "panoptic.json").read_text())
    edit(content)
    (root / "panoptic.json").write_text(json.dumps(content))


def test_what_was_written_is_read(dataset):
    root, ids = dataset
    found = read_panoptic(root)
    assert found.label_space() == SPACE
    (photo,) = found.photos
    assert (photo.image_id, photo.stem, photo.height, photo.width) == (7, "b", 4, 6)
    assert [(s.id, s.category_id, s.isthing, s.score) for s in photo.segments] == [
        (1, 2, True, 0.5),
        (70000, 3, False, 1),
    ]
    assert found.photo_path(photo) == root / "photos" / "a" / "b.jpg"
    assert np.array_equal(found.read_ids(photo), ids)
    (instance,) = read_instances(found)[7]
    assert np.array_equal(decode_mask(instance["segmentation"]), ids == 1)
    assert instance["segment_id"] == 1


def test_a_byte_order_mark_and_flags_as_text_are_welcome(dataset):
    root, _ = dataset
    change(root, lambda content: content["annotations"][0]["segments_info"][0].update(isthing="1", id="1"))
    file = root / "panoptic.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_panoptic(file).photos[0].segments[0].id == 1


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c.pop("images"), "no list 'images'"),
        (lambda c: c["categories"][0].pop("isthing"), "no 'isthing'"),
        (lambda c: c["categories"].append(c["categories"][0]), "category id 1 is given twice"),
        (lambda c: c["images"].append(c["images"][0]), "image id 7 is given twice"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "two annotations"),
        (lambda c: c["images"].clear(), "no entry in 'images'"),
        (lambda c: c["annotations"][0].pop("segments_info"), "no 'segments_info'"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=9), "category_id 9"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(isthing=0), "disagree on 'isthing'"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=70000), "70000 of a/b.jpg is given twice"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=2**40), "not from 1 to"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id="x"), "no COCO panoptic JSON"),
        (lambda c: c["images"][0].pop("file_name"), "no 'file_name'"),
    ],
)
def test_contradictions_are_one_line(dataset, edit, words):
    root, _ = dataset
    change(root, edit)
    with pytest.raises(DataError, match=words) as caught:
        read_panoptic(root)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files(tmp_path, dataset):
    with pytest.raises(UsageError, match=r"no panoptic\.json"):
        read_panoptic(tmp_path / "panoptic")
    with pytest.raises(UsageError, match="there is no file"):
        read_panoptic(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(DataError, match="list, not a JSON object"):
        read_panoptic(tmp_path / "bad.json")
    root, _ = dataset
    change(root, lambda content: content["images"][0].update(height=5))
    found = read_panoptic(root)
    with pytest.raises(DataError, match="6 x 4 pixels"):
        found.read_ids(found.photos[0])
    with pytest.raises(DataError, match="no file"):
        read_ids(root / "panoptic" / "none.png")
    write_png(root / "grey.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match="mode is L"):
        read_ids(root / "grey.png")


def test_ids_are_coded_as_coco_does():
    ids = np.array([[0, 255, 256, 65536 * 3 + 7]], np.int32)
    colours = encode_ids(ids)
    assert np.array_equal(colours.astype(int) @ [1, 256, 65536], ids)
    assert np.array_equal(decode_ids(colours), ids)


def test_other_numberings_have_no_label_space(dataset):
    root, _ = dataset
    change(root, lambda content: content["categories"][2].update(id=9))
    change(root, lambda content: content["annotations"][0]["segments_info"][1].update(category_id=9))
    with pytest.raises(DataError, match="not numbered"):
        read_panoptic(root).label_space()
