"""Every kind of photo that a folder may hold."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from u2seg.errors import DataError, UsageError
from u2seg.images import enlarge, find_photos, read_image, reading

GRADIENT = np.linspace(0, 255, 24 * 32).reshape(24, 32).astype(np.uint8)


def picture(height=24, width=32):
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "YCbCr", "I", "F", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "photo.tif"
    if mode == "I;16":
        Image.fromarray(GRADIENT.astype(np.uint16) * 257).save(path)
    elif mode in ("I", "F"):
        Image.fromarray(GRADIENT).convert(mode).save(path)
    else:
        Image.fromarray(picture()).convert(mode).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape == (24, 32, 3)
    if mode in ("I;16", "I", "F"):
        assert np.abs(image[..., 0].astype(int) - GRADIENT).max() <= 1


def test_sixteen_bit_png_keeps_its_contrast(tmp_path):
    Image.fromarray(GRADIENT.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png")[..., 0], GRADIENT)


def test_transparent_lies_on_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    assert (read_image(save(tmp_path / "a.png", pixels)) == 255).all()


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.jpg", picture(20, 40), exif=exif)
    assert read_image(path).shape == (40, 20, 3)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (200, 10)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == 200).all()


def test_wrong_extension_is_read_by_content(tmp_path):
    save(tmp_path / "really.png", picture()).rename(tmp_path / "called.jpg")
    assert read_image(tmp_path / "called.jpg").shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"this is text", "not an image"), (None, "truncated")],
    ids=["zero bytes", "text", "truncated"],
)
def test_unreadable_files_say_why(tmp_path, content, reason):
    path = tmp_path / "bad.jpg"
    if content is None:
        whole = save(tmp_path / "good.jpg", picture(200, 200)).read_bytes()
        content = whole[: len(whole) // 2]
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_image(path)


def test_a_folder_named_like_a_photo_and_a_missing_file(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    for path in (tmp_path / "folder.jpg", tmp_path / "missing.jpg"):
        with pytest.raises(DataError, match="can't be read"):
            read_image(path)


def test_extreme_shapes(tmp_path):
    assert read_image(save(tmp_path / "dot.png", picture(1, 1))).shape == (1, 1, 3)
    assert read_image(save(tmp_path / "line.png", picture(30, 20_000))).shape == (30, 20_000, 3)


def test_shrink_keeps_the_aspect_and_the_bound():
    assert reading._shrink(Image.new("RGB", (1000, 3000)), 30_000).size == (100, 300)
    image = Image.fromarray(picture())
    assert reading._shrink(image, 10_000) is image
    assert reading._shrink(Image.new("RGB", (50_000, 1)), 1024).height == 1


@pytest.mark.parametrize("size", [(7, 9), (48, 64), (1, 1), (25, 31)])
def test_enlarge_takes_the_nearest_cell(size):
    labels = np.arange(24 * 32, dtype=np.int32).reshape(24, 32)
    found = enlarge(labels, *size)
    rows = [min(int((y + 0.5) * 24 / size[0]), 23) for y in range(size[0])]
    columns = [min(int((x + 0.5) * 32 / size[1]), 31) for x in range(size[1])]
    assert np.array_equal(found, labels[np.ix_(rows, columns)])


def test_a_folder_is_searched_below_and_counts_the_rest(tmp_path):
    save(tmp_path / "b" / "one photo.jpg", picture())
    save(tmp_path / "ä" / "日本.png", picture())
    save(tmp_path / "b.jpg", picture())
    (tmp_path / "notes.txt").write_text("no photo")
    found = find_photos(str(tmp_path))
    assert [photo.name for photo in found.photos] == ["b.jpg", "b/one photo.jpg", "ä/日本.png"]
    assert [photo.id for photo in found.photos] == [1, 2, 3]
    assert [photo.label for photo in found.photos] == ["b.png", "b/one photo.png", "ä/日本.png"]
    assert found.passed_over == {"ending": ("notes.txt",)}


def test_labels_never_collide(tmp_path):
    for name in ("a.jpg", "a.png", "a.JPG.png", "A.webp", "a.jpg.png"):
        save(tmp_path / "x" / name, picture(), format="PNG")
    labels = [photo.label.lower() for photo in find_photos(str(tmp_path)).photos]
    assert len(set(labels)) == len(labels) >= 4


def test_a_folder_named_like_a_label_does_not_collide_with_it(tmp_path):
    save(tmp_path / "a.jpg", picture())
    save(tmp_path / "a.png" / "b.jpg", picture())
    labels = {photo.name: photo.label for photo in find_photos(str(tmp_path)).photos}
    assert labels == {"a.jpg": "a.jpg.png", "a.png/b.jpg": "a.png/b.png"}


def test_a_loop_of_links_is_entered_once(tmp_path):
    save(tmp_path / "photos" / "a.jpg", picture())
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "again")
    os.symlink(tmp_path / "photos" / "missing.jpg", tmp_path / "photos" / "dangling.jpg")
    names = [photo.name for photo in find_photos(str(tmp_path / "photos")).photos]
    assert names == ["a.jpg", "dangling.jpg"]


def test_lists_patterns_and_single_photos(tmp_path):
    first, second = (save(tmp_path / name / "p.jpg", picture()) for name in ("one", "two"))
    (tmp_path / "list.txt").write_text(f"one/p.jpg\n\n# no\n{second}\none/p.jpg\n")
    listed = find_photos(str(tmp_path / "list.txt"))
    assert [photo.name for photo in listed.photos] == ["one/p.jpg", "two/p.jpg"]
    assert listed.repeated == 1
    assert len(find_photos(str(tmp_path / "*" / "*.jpg"))) == 2
    assert find_photos(str(first)).photos[0].name == "p.jpg"


def test_coco_json_keeps_ids_and_names(tmp_path):
    save(tmp_path / "images" / "p.jpg", picture())
    entries = {"images": [{"id": 77, "file_name": "p.jpg", "height": 24, "width": 32}]}
    (tmp_path / "set.json").write_text(json.dumps(entries))
    photo = find_photos(str(tmp_path / "set.json")).photos[0]
    assert (photo.id, photo.name) == (77, "p.jpg")


@pytest.mark.parametrize("name", ["missing", "nothing*", "empty", "bad.json", "list.txt"])
def test_nothing_to_do_is_said_in_words(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(UsageError, match="--images"):
        find_photos(str(tmp_path / name))
