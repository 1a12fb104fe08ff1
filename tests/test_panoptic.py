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
from u2seg.panoptic.codes import segment_areas
from u2seg.panoptic.photos import misstated
from u2seg.panoptic.run_lengths import count_runs, mask_areas
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


def add_photo(content, file_name="c.jpg", label="c.png", id=8):
    content["images"].append({**content["images"][0], "id": id, "file_name": file_name})
    content["annotations"].append({"image_id": id, "file_name": label, "segments_info": []})


def test_what_was_written_is_read(dataset):
    root, ids = dataset
    found = read_panoptic(root)
    assert found.label_space() == SPACE
    (photo,) = found.photos
    assert (photo.image_id, photo.height, photo.width) == (7, 4, 6)
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
        (lambda c: add_photo(c, file_name="a/b.jpg"), "the photo 'a/b.jpg' is given twice"),
        (lambda c: add_photo(c, file_name="a\\b.jpg"), "the photo 'a/b.jpg' is given twice"),
        (lambda c: add_photo(c, label="a/b.png"), "the label 'a/b.png' is given twice"),
        (lambda c: add_photo(c, id="7"), "image id 7 is given twice"),
        (lambda c: c["categories"][1].update(name=c["categories"][0]["name"]), "category '1' is given twice"),
        (lambda c: c["categories"][0].update(color=[300, 0, 0]), "'color' 300, not from 0 to 255"),
        (lambda c: c["categories"][0].update(color="#ff0000"), "'#ff0000', not three numbers"),
        (lambda c: c["categories"][0].update(isthing="maybe"), "'isthing' 'maybe', not 0 or 1"),
        (lambda c: c["categories"][0].update(id=2**80), "category '1' has the 'id' 12"),
        (lambda c: c["images"][0].update(id=float("inf")), "entry 0 of 'images' has the 'id' inf"),
        (lambda c: c["images"][0].update(height=None), "image id 7 has no 'height'"),
        (lambda c: c["annotations"].append(3), "3 as entry 1 of 'annotations', not an object"),
        (lambda c: c["annotations"][0].update(segments_info={}), "image id 7 has no list 'segments_info'"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(score=float("nan")), "segment 1 of a/b.jpg .* nan"),
        (lambda c: c["annotations"][0].update(file_name="../../a.png"), r"image id 7: .* leads out of"),
        (lambda c: c["annotations"][0].update(file_name="/a.png"), r"image id 7: .* leads out of"),
        (lambda c: c.update(info=["x"]), "its 'info' is a list"),
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
    with pytest.raises(DataError, match="can't be read as JSON"):
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


def test_every_spelling_of_a_value_is_the_same(dataset):
    root, _ = dataset
    plain = read_panoptic(root)

    def spell(content):
        content["images"][0].update(id="7", height="4", width=6.0, file_name="a\\b.jpg")
        content["annotations"][0].update(image_id=7.0, file_name="a\\b.png")
        for segment in content["annotations"][0]["segments_info"]:
            segment.update(id=str(segment["id"]), isthing=str(bool(segment["isthing"])), iscrowd=None)
        for category in content["categories"]:
            category.update(id=str(category["id"]), isthing=str(category["isthing"]))

    change(root, spell)
    change(root, lambda content: content["annotations"][0]["segments_info"][0].update(score="0.5"))
    file = root / "panoptic.json"
    file.write_bytes(file.read_text().encode("utf-16"))
    assert read_panoptic(root) == plain
    instances = json.loads((root / "instances.json").read_text())
    instances["annotations"][0].update(image_id="7", category_id="2", score="0.5", area=None, bbox=None)
    (root / "instances.json").write_text(json.dumps(instances))
    (instance,) = read_instances(read_panoptic(root))[7]
    assert (instance["category_id"], instance["score"], instance["area"]) == (2, 0.5, 12)


def test_names_of_classes_can_be_printed(dataset):
    root, _ = dataset
    change(root, lambda content: content["categories"][0].update(name="a\x1b[31m\ud800"))
    assert read_panoptic(root).categories[0].name == "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}"


def test_images_without_annotation_are_counted(dataset, caplog):
    root, _ = dataset
    change(root, lambda content: content["images"].append({"id": 9}))
    read_panoptic(root)
    assert "1 of 2 images have no annotation and are left out" in caplog.text


@pytest.mark.parametrize("folder", ["images", "", "panoptic"])  # the last is called as the JSON file
def test_photos_are_found_where_the_file_says_nothing(dataset, folder):
    root, _ = dataset
    change(root, lambda content: content["info"].clear())
    write_png(root / folder / "a" / "b.jpg", np.zeros((4, 6, 3), np.uint8))
    found = read_panoptic(root)
    assert found.photo_path(found.photos[0]) == root / folder / "a" / "b.jpg"


def test_what_is_stated_of_segments_is_compared(dataset):
    root, ids = dataset
    boxes = iter([[0, 0, 3, 4], [3, 0, 2, 9]])
    change(
        root,
        lambda content: [s.update(area="12", bbox=next(boxes)) for s in content["annotations"][0]["segments_info"]],
    )
    first, second = (segment.stated for segment in read_panoptic(root).photos[0].segments)
    assert (first, second) == ((12, 0, 0, 3, 4), (12, 3, 0, 2, 9))
    areas = segment_areas(ids, [1, 70000, 3], "a.png")
    assert areas.tolist() == [12, 8, 0]
    assert misstated([first, second, first], areas).tolist() == [False, True, True]
    box = np.array([[0, 0, 3, 4], [3, 0, 2, 4]])
    assert misstated([first, (None, *second[1:])], areas[:2], box).tolist() == [False, True]
    assert misstated([(None,) * 5], areas[:1], box[:1]).tolist() == [False]
    with pytest.raises(DataError, match=r"a\.png holds segment id 70000, which the JSON does not list$"):
        segment_areas(ids, [1], "a.png")
    with pytest.raises(DataError, match="none of its ids is listed"):
        segment_areas(ids, [256], "a.png")


def change_instances(root, edit):
    content = json.loads((root / "instances.json").read_text())
    edit(content)
    (root / "instances.json").write_text(json.dumps(content))
    return read_instances(read_panoptic(root))


def repeat_annotation(content):
    (entry,) = content["annotations"]
    content["annotations"] = [{**entry, "id": 4}, {**entry, "id": "4"}]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (repeat_annotation, "annotation id 4 is given twice"),
        (lambda c: c["images"].append(c["images"][0]), "of 'images', id 7 is given twice"),
        (lambda c: c["images"][0].update(id=8), "'a/b.jpg' of 'images' has the id 8, in panoptic.json 7"),
        (lambda c: c["categories"][0].update(name="2"), "'2' of 'categories' has the id 1, in panoptic.json 2"),
        (lambda c: c.update(categories=3), "it has no list 'categories'"),
        (lambda c: c["annotations"][0].update(id=float("nan")), "an annotation has the 'id' nan"),
    ],
)
def test_instances_that_number_otherwise_are_refused(dataset, edit, words):
    with pytest.raises(DataError, match=words):
        change_instances(dataset[0], edit)


def test_other_names_and_missing_lists_are_no_contradiction(dataset):
    def edit(content):
        content["images"][0]["file_name"] = "b_gtFine.png"
        content["categories"][0]["name"] = "car"

        content["images"] += [{"id": 99, "file_name": None}]
        content["categories"] += [{"id": 98, "name": None}]

    assert change_instances(dataset[0], edit)[7]
    assert change_instances(dataset[0], lambda c: (c.pop("images"), c.pop("categories")))[7]


def test_stuff_called_as_a_thing_is_no_other_number_of_it(dataset):
    """Where ``instances.json`` lists all categories."""
    root, _ = dataset

    def edit(content):
        content["categories"][2]["name"] = content["categories"][0]["name"]

    change(root, edit)
    categories = json.loads((root / "panoptic.json").read_text())["categories"]
    assert [c["isthing"] for c in categories] == [1, 1, 0]
    assert change_instances(root, lambda c: c.update(categories=categories))[7]
    categories[2]["id"] = 9
    with pytest.raises(DataError, match=r"has the id 9, in panoptic\.json 1"):
        change_instances(root, lambda c: c.update(categories=categories))


def test_areas_and_boxes_of_masks_are_compared_and_the_pixels_count(dataset, caplog):
    root, _ = dataset
    (mask,) = change_instances(root, lambda c: None)[7]
    assert (mask["area"], caplog.text) == (12, "")
    (mask,) = change_instances(root, lambda c: c["annotations"][0].update(area="7", bbox=[0, 0, 1, 1]))[7]
    assert mask["area"] == 12
    assert "'area' or 'bbox' of 1 of 1 masks disagrees with the pixels, which count" in caplog.text
    change_instances(root, lambda c: c["annotations"][0].update(area=None, bbox="x"))


@pytest.mark.parametrize("names", [("none", "x"), ("Default", "x"), ("", "x"), ("x", "x")])
def test_supercategories_that_tell_nothing_apart(dataset, names):
    root, _ = dataset
    names = (*names, "stuff")
    change(root, lambda content: [c.update(supercategory=names[c["id"] - 1]) for c in content["categories"]])
    with pytest.raises(DataError, match=r"supercategory.*; do this"):
        read_panoptic(root).check_supercategories(True, "do this")
    read_panoptic(root).check_supercategories(False, "do this")


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 31), (480, 640)])
def test_codes_are_those_of_pycocotools(shape):
    from pycocotools import mask as coco

    rng = np.random.default_rng(shape[0])
    for density in (0, 0.001, 0.5, 1):
        mask = rng.random(shape) < density
        code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert np.array_equal(decode_mask(code), mask)
        runs = count_runs({"size": list(shape), "counts": code["counts"].decode()})
        assert np.array_equal(decode_mask({"size": list(shape), "counts": runs.tolist()}), mask)


def test_areas_in_one_pass_are_those_of_each_code():
    from pycocotools import mask as coco

    rng, codes, areas = np.random.default_rng(0), [], []
    for number in range(300):
        shape = tuple(rng.integers(1, 30, 2).tolist())
        mask = rng.random(shape) < rng.choice([0, 0.02, 0.5, 1])
        code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        counts = count_runs({"size": list(shape), "counts": code}).tolist() if number % 7 == 0 else code
        codes.append({"size": list(shape), "counts": counts})
        areas.append(None if number % 7 == 0 else int(mask.sum()))
    assert mask_areas(codes) == areas
    assert mask_areas([]) == []
    assert mask_areas([codes[1], {**codes[2], "size": [1, 1000]}, None, {}, []]) == [areas[1], *[None] * 4]
    for counts in ("zz", "P", "é", "0" + "o" * 9, "`2", "aO"):  # "P" would run on into the next code
        found = mask_areas([codes[1], {"size": [4, 6], "counts": counts}, codes[2]])
        assert found in ([None] * 3, [areas[1], None, areas[2]])


@pytest.mark.parametrize("counts", ["", "zz", "P2P2P2", b"\xff", "é", [1], [-1, 25], [[1]], None, 7, [2**70]], ids=str)
def test_damaged_codes_are_refused(dataset, counts):
    root, _ = dataset
    code = {"size": [4, 6], "counts": counts}
    with pytest.raises(DataError, match="run-length code"):
        decode_mask(code)
    if isinstance(counts, bytes):
        return
    content = json.loads((root / "instances.json").read_text())
    content["annotations"][0].update(id=3, segmentation=code)
    (root / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"instances\.json: annotation 3 of 'a/b\.jpg' has .*run-length code"):
        read_instances(read_panoptic(root))


def test_a_code_of_another_size_is_not_decoded(dataset):
    root, _ = dataset
    content = json.loads((root / "instances.json").read_text())
    content["annotations"][0].update(segmentation={"size": [10**6, 10**6], "counts": [10**12]})
    (root / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"is 1000000 x 1000000 pixels .* its photo 6 x 4"):
        read_instances(read_panoptic(root))
