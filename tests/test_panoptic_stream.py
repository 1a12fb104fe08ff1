"""JSON entry by entry is what Python's own reader makes of the whole file, and columns give back what went in."""

import json
import pickle
import random
from collections.abc import Iterator

import numpy as np
import pytest

from u2seg.errors import DataError, UsageError
from u2seg.fields import read_json
from u2seg.panoptic import LabelledPhoto, Photos, SegmentInfo, read_instances, read_panoptic, stream
from u2seg.panoptic.photos import Packed, refuse_duplicates
from u2seg.panoptic.stream import read_members
from u2seg.structures import LabelSpace

ATOMS = [
    0,
    -0.0,
    1e-7,
    -12.5e300,
    2**80,
    -1,
    True,
    None,
    float("inf"),
    float("-inf"),
    "",
    'a"\\/\b\n',
    "é\ud800𝄞",
    "]}",
]


def made_up(rng, depth=3):
    kind = rng.random()
    if depth == 0 or kind < 0.4:
        return rng.choice([*ATOMS, rng.randrange(10**9), rng.random() * 10.0 ** rng.randrange(-300, 300)])
    values = [made_up(rng, depth - 1) for _ in range(rng.randrange(4))]
    return values if kind < 0.7 else {f"k{index}\u2028": value for index, value in enumerate(values)}


def members(path, lists=("list", "other")):
    return {key: list(value) if isinstance(value, Iterator) else value for key, value in read_members(path, lists)}


@pytest.fixture(params=[1, 2, 3, 7, 64])
def piece(request, monkeypatch):
    """Few characters at once, so that a piece ends within every text, escape and number."""
    monkeypatch.setattr(stream, "PIECE", request.param)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_entries_are_those_of_the_whole_file(tmp_path, piece, encoding):
    rng, path = random.Random(0), tmp_path / "a.json"
    for number in range(60):
        content = {key: made_up(rng) for key in rng.sample(["list", "a", "other", "\ud800", ""], rng.randrange(6))}
        if number % 2:
            content["list"] = [made_up(rng) for _ in range(rng.randrange(5))]
        indent = rng.choice([None, 0, 3])
        text = json.dumps(content, ensure_ascii=number % 3 > 0, indent=indent) + rng.choice(["", " \r\n\t"])
        path.write_bytes(text.encode(encoding, "surrogatepass"))
        assert repr(members(path)) == repr(read_json(path)), text
        assert all(key in content for key, _ in read_members(path, ("list", "other"))), "what is not taken is skipped"


@pytest.mark.parametrize("number", ["1", "-0", "12e3", "1.5e+10", "1E-2", "-Infinity", "NaN", "123456789.125"])
def test_a_number_is_whole_at_the_end_of_a_piece(tmp_path, piece, number):
    (tmp_path / "a.json").write_text(f'{{"list":[{number},{number}],"x":{number}}}')
    assert repr(members(tmp_path / "a.json")) == repr(read_json(tmp_path / "a.json"))


BROKEN = ["", "{", "[1]", "3", "{} x",
          '{"list": [1,]}', '{"list": [1 2]}', '{"a": 1,}', "{1: 2}", '{"a" 1}', '{"a": 1e}',
          '{"list": [{"a": "b}]}', '{"list": ["\\x"]}',
          '{"list": [1', '{"list": ["\t"]}', '{"list": [tru]}']  # fmt: skip


@pytest.mark.parametrize("text", [*BROKEN, '{"a": ' + "9" * 5000 + "}", '{"list": [' + "[" * 10**5 + "]}"])
def test_what_is_no_json_object_is_said_in_one_line(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"^it can't be read as JSON: [^\n]+$"):
        members(tmp_path / "a.json")


def test_where_json_is_broken_is_said(tmp_path, piece):
    (tmp_path / "a.json").write_text('{"a": [1, 2], "list": [{"b": 3}, {"b": x}]}')
    with pytest.raises(DataError, match=r"Expecting value, at character 39$"):
        members(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"list": [{"b": 3} {"b": 4}]}')
    with pytest.raises(DataError, match=r"at character 19$"):
        members(tmp_path / "a.json")


def test_bytes_that_are_no_text_and_no_file(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"list": ["\xff"]}')
    with pytest.raises(DataError, match="can't be read as JSON"):
        members(tmp_path / "a.json")
    with pytest.raises(UsageError, match="there is no file"):
        members(tmp_path / "none.json")


def test_columns_give_back_what_went_in():
    photos = [
        LabelledPhoto(2**63 - 1, "a/\udc80é.jpg", 3, 2**20, "a.png", ()),
        LabelledPhoto(
            "x",
            "",
            1,
            2,
            "b.png",
            (SegmentInfo(7, 2**31 - 1, True, True, 0.1, (3.0, 1, 2, None, None)), SegmentInfo(1, 0, False)),
        ),
        LabelledPhoto(-(2**63) + 1, "c", 4, 5, "c.png", (SegmentInfo(2**24 - 1, 3, False, score=-1.5),)),
    ]
    columns = Photos(photos)
    assert list(columns) == photos
    assert columns[-1] == photos[-1]
    assert columns[1:] == Photos(photos[1:]) != columns
    assert pickle.loads(pickle.dumps(columns)) == columns
    assert [type(value) for value in (columns[1].segments[0].isthing, columns[1].segments[0].iscrowd)] == [bool, bool]
    with pytest.raises(IndexError):
        columns[3]
    values = Packed()
    for value in (ids := [1, None, 2**70, "a", True, -5]):
        values.append(value)
    assert list(map(repr, values)) == list(map(repr, ids))
    assert values[1:3] == [None, 2**70]


def test_duplicates_are_found_and_equal_hashes_are_none():
    refuse_duplicates([-1, -2, 2**61 - 1, 0], "id")  # the hashes of the first two are equal, and those of the last two
    with pytest.raises(DataError, match="id 'b' is given twice"):
        refuse_duplicates(["a", "b", "b"], "id")


@pytest.mark.parametrize("order", [("images", "annotations", "categories"), ("annotations", "categories", "images"),
                                   ("categories", "images", "annotations")])  # fmt: skip
def test_members_may_stand_in_any_order(tmp_path, order):
    content = {
        "categories": LabelSpace(1, 1).categories(),
        "images": [{"id": number, "file_name": f"{number}.jpg", "height": 4, "width": 6} for number in range(3)],
        "annotations": [
            {"image_id": number, "file_name": f"{number}.png", "segments_info": [{"id": 1, "category_id": 1}]}
            for number in (2, 0)
        ],
    }
    (tmp_path / "panoptic.json").write_text(json.dumps({key: content[key] for key in order}))
    assert [photo.image_id for photo in read_panoptic(tmp_path).photos] == [2, 0]


def test_of_two_members_of_one_name_the_last_counts(tmp_path):
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}
    label = {"image_id": 1, "file_name": "a.png", "segments_info": []}
    members = [("categories", []), ("images", [image]), ("annotations", [label]), ("images", [{**image, "height": 5}])]
    (tmp_path / "panoptic.json").write_text("{" + ",".join(f'"{key}": {json.dumps(v)}' for key, v in members) + "}")
    assert [photo.height for photo in read_panoptic(tmp_path).photos] == [5]


def test_instances_come_by_photo_in_their_order(tmp_path):
    code = {"size": [1, 2], "counts": "02"}
    images = [{"id": number, "file_name": f"{number}", "height": 1, "width": 2} for number in ("a", 5, 3)]
    labels = [{"image_id": i["id"], "file_name": f"{i['id']}.png", "segments_info": []} for i in images]
    entries = [
        {"id": number, "image_id": ("a", 3)[number % 2], "category_id": 1, "segmentation": code} for number in range(5)
    ]
    content = {"categories": LabelSpace(1, 0).categories(), "images": images}
    (tmp_path / "panoptic.json").write_text(json.dumps({**content, "annotations": labels}))
    (tmp_path / "instances.json").write_text(json.dumps({**content, "annotations": entries}))
    instances = read_instances(read_panoptic(tmp_path))
    assert {key: [entry["id"] for entry in of_photo] for key, of_photo in instances.items()} == {
        "a": [0, 2, 4], 5: [], 3: [1, 3],
    }  # fmt: skip
    assert instances[3][0] == {"id": 1, "category_id": 1, "segment_id": None, "score": 1.0, "segmentation": code,
                               "area": 2, "iscrowd": False}  # fmt: skip
    assert np.array_equal([len(instances)], [3])
