"""Photos and folders of strangers: what is opened, what is followed, and what is said."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from u2seg.errors import DataError, UsageError
from u2seg.files import claim_directory
from u2seg.images import find_photos, finding, read_image, read_shrunk, reading


def picture(height=24, width=32):
    # smooth, as photos are
    y, x = np.mgrid[:height, :width]
    return np.stack([(x * 5 + y) % 256 // 2, 40 + y * 120 // height, 200 - x * 100 // width], axis=-1).astype(np.uint8)


def save(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture() if pixels is None else pixels).save(path, **options)
    return path


def shrink(image, pixels):
    return np.asarray(reading._shrink(Image.fromarray(image), pixels))


def names(photos):
    return [photo.name for photo in photos.photos]


def test_postscript_by_another_name_starts_no_program(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: started.append(1))
    content = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    for name in ("a.jpg", "a.eps", "a.tga"):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=r"not an image|can't be read"):
            read_image(tmp_path / name)
    assert not started


@pytest.mark.parametrize("kind", ["PPM", "TGA", "TIFF", "WEBP", "JPEG2000", "AVIF", "MPO"])
def test_allowed_formats(tmp_path, kind):
    ending = {"JPEG2000": "jp2", "TGA": "tga"}.get(kind, "jpg")  # the others are told by their content
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}")
    save(tmp_path / f"a.{ending}", format=kind)
    assert read_image(tmp_path / f"a.{ending}").shape == (24, 32, 3)
    save(tmp_path / f"a.{kind.lower().replace('jpeg2000', 'jp2')}", format=kind)
    assert len(find_photos(str(tmp_path / f"a.{kind.lower().replace('jpeg2000', 'jp2')}"))) == 1


@pytest.mark.parametrize("ending", ["avif", "jp2", "tga", "jfif", "heic"])
def test_endings(tmp_path, ending):
    save(tmp_path / "a.png")
    (tmp_path / f"b.{ending}").write_bytes(b"")
    photos = find_photos(str(tmp_path))
    if f".{ending}" in finding.EXTENSIONS:
        assert names(photos) == ["a.png", f"b.{ending}"]
    else:
        (note,) = photos.notes()
        assert note.startswith("passed over, files whose ending is none")
        assert note.endswith(f"1, such as b.{ending}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir])
def test_pipes_and_devices_do_not_hang(tmp_path, make):
    make(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"no regular file|directory"):
        read_image(tmp_path / "a.jpg")


def test_pixels_are_bounded_before_they_are_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", picture(40, 50))
    assert read_image(path, max_pixels=2000).shape == (40, 50, 3)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match="50 x 40 pixels, more than 1999"):
        read_image(path, max_pixels=1999)
    with pytest.raises(DataError, match="more than 1999"):
        read_shrunk(path, 100, max_pixels=1999)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000", "PNG"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_photos_are_decoded_at_reduced_size(tmp_path, kind, orientation, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", picture(410, 301), format=kind, exif=exif)
    whole = read_image(path)
    decoded = []
    original = reading._turned_rgb
    monkeypatch.setattr(reading, "_turned_rgb", lambda *args: decoded.append(original(*args)) or decoded[-1])
    for pixels in (410 * 301 // 32 + 1, 2000):
        small, size = read_shrunk(path, pixels)
        assert size == whole.shape[:2]
        expected = shrink(whole, pixels)
        assert small.shape == pytest.approx(expected.shape, abs=1)
        assert np.abs(small.astype(int) - np.asarray(Image.fromarray(expected).resize(small.shape[1::-1]))).mean() < 8
    assert decoded[0].size[0] * decoded[0].size[1] == whole.size // 3, "a photo of usual size is decoded as it is"
    assert (decoded[1].size[0] < whole.shape[1]) == (kind != "PNG")


def test_a_photo_of_usual_size_is_shrunk_as_ever(tmp_path):
    path = save(tmp_path / "a.jpg", picture(200, 300))
    for pixels in (2000, 60_000, 10**6):
        small, size = read_shrunk(path, pixels)
        assert size == (200, 300)
        assert np.array_equal(small, shrink(read_image(path), pixels))


def test_links_that_lead_out_are_passed_over_and_each_file_comes_once(tmp_path, caplog):
    save(tmp_path / "secret" / "s.jpg")
    photos = tmp_path / "photos"
    save(photos / "a.jpg")
    save(photos / ".store" / "b.jpg")
    os.symlink(tmp_path / "secret" / "s.jpg", photos / "out.jpg")
    os.symlink(tmp_path / "secret", photos / "outside")
    os.symlink("a.jpg", photos / "again.jpg")
    os.symlink(photos, photos / "loop")
    os.symlink(".store/b.jpg", photos / "b.jpg")
    os.symlink(tmp_path / "photos", tmp_path / "link")
    found = find_photos(str(photos))
    assert names(found) == names(find_photos(str(tmp_path / "link"))) == ["a.jpg", "b.jpg"]
    assert found.passed_over == {"link": ("out.jpg", "outside")}
    assert "links that lead out of the folder (a .txt list may name their targets): 2, such as out.jpg" in caplog.text
    (tmp_path / "list.txt").write_text("photos/out.jpg")
    assert len(find_photos(str(tmp_path / "list.txt"))) == 1


def test_outputs_in_the_folder_are_no_photos(tmp_path):
    save(tmp_path / "a.jpg")
    for kind in ("labels", "gallery"):
        save(claim_directory(tmp_path / "sub" / kind, kind) / "media" / "p.png")
    for images in (str(tmp_path), str(tmp_path / "**" / "*.*g"), str(tmp_path / "**")):
        assert [name for name in names(find_photos(images)) if "media" in name] == []
    assert find_photos(str(tmp_path)).passed_over == {"output": ("sub/gallery", "sub/labels")}
    assert names(find_photos(str(tmp_path / "sub" / "labels" / "media"))) == ["p.png"]


def test_an_output_itself_is_refused_and_photos_kept_in_it_are_not(tmp_path):
    labels = claim_directory(tmp_path / "labels", "labels")
    for place in ("panoptic/cam0", "images"):
        save(labels / place / "a.png")
    for images in (
        labels,
        labels / "panoptic",
        labels / "panoptic" / "cam0",
        labels / "*.png",
        labels / "panoptic" / "**",
    ):
        with pytest.raises(UsageError, match="is an output of u2seg, not photos; name the folder of the photos"):
            find_photos(str(images))
    assert names(find_photos(str(labels / "images"))) == ["a.png"]
    save(tmp_path / "panoptic" / "b.png")  # a folder of the user's
    assert names(find_photos(str(tmp_path / "panoptic"))) == ["b.png"]


def test_where_the_run_writes_is_no_photo_of_it(tmp_path):
    save(tmp_path / "a.jpg")
    save(tmp_path / "results" / "a.jpg")  # of an earlier run that left no mark
    for images in (str(tmp_path), str(tmp_path / "**" / "*.jpg")):
        assert names(find_photos(images, output=str(tmp_path / "results"))) == ["a.jpg"]
        assert len(find_photos(images)) == 2


def test_a_folder_that_cant_be_read_is_said(tmp_path, monkeypatch, caplog):
    save(tmp_path / "a.jpg")
    save(tmp_path / "locked" / "b.jpg")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(find_photos(str(tmp_path))) == ["a.jpg"]
    assert "folders that can't be read: 1, such as locked" in caplog.text


def test_names_that_no_terminal_shall_see(tmp_path):
    save(tmp_path / "a.jpg")
    (tmp_path / "caf\udce9\x1b[31m.txt").write_text("")
    (note,) = find_photos(str(tmp_path)).notes()
    assert note.endswith("such as caf\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lists_of_other_systems(tmp_path, encoding):
    save(tmp_path / "ä" / "p.jpg")
    (tmp_path / "list.txt").write_bytes("ä\\p.jpg\r\n".encode(encoding))
    (photo,) = find_photos(str(tmp_path / "list.txt")).photos
    assert photo.path == str(tmp_path / "ä" / "p.jpg")
    (tmp_path / "list.txt").write_bytes(b"a\0b")
    with pytest.raises(UsageError, match="zero byte"):
        find_photos(str(tmp_path / "list.txt"))


def write_coco(path, entries, **more):
    path.write_text(json.dumps({"images": entries, **more}))
    return str(path)


def test_coco_lists_of_other_systems(tmp_path):
    save(tmp_path / "set" / "images" / "p.jpg")
    save(tmp_path / "other" / "q.jpg")
    file = tmp_path / "set" / "set.json"
    found = find_photos(write_coco(file, [{"id": "7", "file_name": "images\\p.jpg"}]))
    assert [(photo.id, photo.name) for photo in found.photos] == [(7, "images/p.jpg")]
    entries = [{"id": 1, "file_name": "../other/q.jpg"}, {"id": 2, "file_name": str(tmp_path / "set/images/p.jpg")}]
    found = find_photos(write_coco(file, entries))
    assert [(photo.id, photo.name) for photo in found.photos] == [(1, "other/q.jpg"), (2, "set/images/p.jpg")]
    found = find_photos(write_coco(file, [{"id": "bonn_1", "file_name": "q.jpg"}], info={"image_root": "../other"}))
    assert ([photo.id for photo in found.photos], found.numbered) == ([1], False)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"id": 1, "file_name": "p.jpg"}] * 2, "image id 1 is given twice"),
        ([{"id": 1, "file_name": "p.jpg"}, {"id": 2, "file_name": "p.jpg"}], "the photo 'p.jpg' is given twice"),
        ([{"id": 2**80, "file_name": "p.jpg"}], "entry 0 of 'images' has the 'id' 12"),
        ([{"id": 1, "file_name": "\ud800"}], "which no file can be called"),
        ([{"id": 1}], "entry 0 of 'images' has no 'file_name'"),
        ([7], "not an object"),
    ],
)
def test_bad_coco_lists_are_one_line(tmp_path, entries, words):
    save(tmp_path / "p.jpg")
    with pytest.raises(UsageError, match=r"set\.json is no COCO JSON") as caught:
        find_photos(write_coco(tmp_path / "set.json", entries))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_has_a_reason(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, "PNG")
    for content in (b"", stream.getvalue()[:60], b"\x89PNG\r\n\x1a\n" + b"\0" * 40):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=r"empty file|not an image|can't be read"):
            read_image(tmp_path / "a.png")
