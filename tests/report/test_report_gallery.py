"""What is written, what is kept, what is refused."""

import json
import os
import random
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from u2seg.errors import DataError, UsageError
from u2seg.panoptic import (
    Category,
    LabelledPhoto,
    PanopticDataset,
    SegmentInfo,
    decode_mask,
    read_instances,
    read_panoptic,
)
from u2seg.report.gallery import Drawn, write_gallery
from u2seg.report.labels import Annotation, annotations_of, choose_crops
from u2seg.report.pages import Site, photo_page
from u2seg.report.pictures import Record

TOOL = Path(__file__).resolve().parents[2] / "tools" / "visualize_pseudo.py"
VOID_TAGS = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Tags of a page, and whether they are nested rightly."""

    def __init__(self, path):
        super().__init__()
        self.found, self.open, self.texts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID_TAGS and tag != "path":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)

    def every(self, tag, key):
        return [attributes[key] for name, attributes in self.found if name == tag and attributes.get(key)]


def pages(gallery):
    return {path.name: Page(path) for path in sorted(gallery.glob("*.html"))}


def made_up_site(folder, count, name):
    """Pages of ``count`` photos that are called ``name``, with 60 segments each, none of which is on disk."""
    categories = tuple(Category(i, f"thing_{i}", "", i <= 800, (i % 256, 9, 9)) for i in range(1, 828))
    segments = tuple(SegmentInfo(i, 13 * i, True) for i in range(1, 61))
    photos = tuple(LabelledPhoto(i, name.format(i), 480, 640, "", segments) for i in range(count))
    dataset = PanopticDataset(folder / "panoptic.json", folder, folder, categories, photos)
    annotations = [[Annotation(s.category_id, 1.0, s.id) for s in segments]] * count
    marks = [[13 * i, 0.1234, 0.5678, 0.01234, 0.1234, False] for i in range(1, 61)]
    views = {view: marks for view in ("things", "stuff", "panoptic")}
    return Site(dataset, annotations, {}, 48), [Record(number, "", views=views) for number in range(count)]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_page_is_well_formed_and_every_link_leads_somewhere(tiny_gallery):
    found = pages(tiny_gallery)
    assert set(found) == {"index.html", "photos_0002.html", "classes.html", "classes_0001.html", "run.html"}
    anchors = {
        name: set(page.every("section", "id")) | set(page.every("article", "id")) for name, page in found.items()
    }
    for name, page in found.items():
        for source in page.every("img", "src") + page.every("script", "src"):
            assert (tiny_gallery / source).is_file(), source
        for target in page.every("a", "href"):
            place, _, anchor = target.partition("#")
            assert (tiny_gallery / (place or name)).is_file(), target
            photo = re.fullmatch(r"(p\d+)(-\w+)?", anchor)
            if place and anchor:
                assert (photo[1] if photo else anchor) in anchors[place], target


def test_nothing_is_loaded_from_elsewhere(tiny_gallery):
    for path in [*tiny_gallery.glob("*.html"), *tiny_gallery.glob("assets/*")]:
        assert not re.search(r"https?://|@import|src=\"//", path.read_text(encoding="utf-8")), path


def test_names_are_escaped_and_whole(tiny_gallery, tiny_dataset):
    found = pages(tiny_gallery)
    titles = [a["title"] for page in found.values() for tag, a in page.found if tag == "h3" and "title" in a]
    assert titles == [photo.file_name for photo in read_panoptic(tiny_dataset).photos]
    scripts = [tag for page in found.values() for tag, _ in page.found if tag == "script"]
    assert len(scripts) == 2 * len(found)
    assert not any(tag == "b" for tag, _ in found["classes_0001.html"].found if "<b>" in tag)
    assert "<script>alert(1)</script>.jpg" in "".join(found["run.html"].texts)
    assert "Masks are <made> up & not found." in found["index.html"].texts


def test_inline_data_can_not_end_its_script(tmp_path):
    name = "</script><!-- & \u2028 ' \" .jpg"
    site, records = made_up_site(tmp_path, 1, name)
    text = photo_page(site, 0, records)
    data = re.search(r"window\.GALLERY = (.*?);</script>", text, re.S)[1]
    assert "<" not in data
    assert "\u2028" not in data
    assert json.loads(data)["photos"][0]["name"] == name


def test_counts_and_settings_of_the_run_are_shown(tiny_gallery, tiny_dataset):
    text = "|".join(part for part in pages(tiny_gallery)["run.html"].texts if part.strip())
    assert "thing masks|6" in text
    config = next(part for part in text.split("|") if part.startswith("U2SEG:"))
    assert yaml.safe_load(config) == json.loads((tiny_dataset / "run.json").read_text())["config"]
    assert "Tuned with <labels>." in text
    assert "Skipped files (1)" in text


def test_shares_count_the_pixels(tiny_gallery, tiny_dataset):
    dataset = read_panoptic(tiny_dataset)
    instances = read_instances(dataset)
    for number, photo in enumerate(dataset.photos):
        record = Record(**json.loads((tiny_gallery / f"media/0000/{number:06d}.json").read_text()))
        ids = dataset.read_ids(photo)
        assert record.void == pytest.approx((ids == 0).mean(), abs=1e-5)
        for annotation, (category_id, score, share) in zip(annotations_of(photo, instances), record.masks, strict=True):
            assert (category_id, score) == (annotation.category_id, annotation.score)
            mask = decode_mask(annotation.code) if annotation.code else ids == annotation.segment_id
            assert share == pytest.approx(mask.mean(), abs=1e-5)


def test_a_class_is_counted(tmp_path):
    dataset = made_up_site(tmp_path, 2, "{}.jpg")[0].dataset
    drawn = Drawn(dataset)
    drawn.add(Record(0, "", masks=[(3, 0.5, 0.2), (3, 0.7, 0.4)], void=0.1))
    drawn.add(Record(1, "", masks=[(3, 0.9, None)]))
    assert drawn.summary().mean_void == 0.1
    count = drawn.summary().classes[3]
    assert (count.segments, count.photos) == (3, 2)
    assert count.mean_score == pytest.approx(0.7)
    assert count.mean_area == pytest.approx(0.3)


def test_crops_of_a_class_are_sorted_by_score(tiny_gallery):
    text = (tiny_gallery / "classes_0001.html").read_text(encoding="utf-8")
    section = re.search(r'id="c1".*?</section>', text, re.S)[0]
    assert re.findall(r"<span>([\d.]+)</span>", section) == ["0.75", "0.50", "0.25"]


@pytest.mark.parametrize("with_instances", [True, False])
def test_layers_agree_with_the_labels(make_dataset, tmp_path, with_instances):
    folder = make_dataset(tmp_path / "set", with_instances=with_instances)
    gallery = write_gallery(folder, workers=1).parent
    dataset = read_panoptic(folder)
    colors = {category.id: category.color for category in dataset.categories}
    for number, photo in enumerate(dataset.photos):
        with Image.open(gallery / f"media/0000/{number:06d}_panoptic.png") as image:
            layer = np.asarray(image.convert("RGBA"))
        rows, columns = (np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1)
                         for n, m in zip(layer.shape[:2], (photo.height, photo.width), strict=True))  # fmt: skip
        ids = dataset.read_ids(photo)[rows[:, None], columns]
        for segment in photo.segments:
            shown = layer[(ids == segment.id)]
            filled = shown[shown[:, 3] == 128][:, :3]
            assert (filled == colors[segment.category_id]).all()
            assert len(filled) > 0.8 * len(shown)
        assert not set(map(tuple, layer[ids == 0][:, :3])) & set(colors.values())
        with Image.open(gallery / f"media/0000/{number:06d}_stuff.png") as image:
            stuff = np.asarray(image.convert("RGBA"))
        centre = stuff[int(0.45 * len(stuff)), int(0.4 * stuff.shape[1]), 3]
        assert centre == 150  # a thing, which this layer dims


def test_a_second_run_draws_nothing_and_changes_nothing(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "set")
    gallery = write_gallery(folder, workers=1).parent
    before = contents(gallery)
    times = {path: path.stat().st_mtime_ns for path in gallery.glob("media/*/*")}
    write_gallery(folder, workers=2)
    assert contents(gallery) == before
    assert {path: path.stat().st_mtime_ns for path in gallery.glob("media/*/*")} == times


def test_what_is_missing_broken_or_changed_is_drawn_anew(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "set")
    gallery = write_gallery(folder, workers=1).parent
    before = contents(gallery)
    (gallery / "media/0000/000000_things.png").unlink()
    (gallery / "media/0000/000001.json").write_text("{", encoding="utf-8")
    write_gallery(folder, workers=1)
    assert contents(gallery) == before
    label = folder / "panoptic" / "astronaut.png"
    with Image.open(label) as image:
        blank = np.zeros_like(np.asarray(image))
    Image.fromarray(blank).save(label)
    write_gallery(folder, workers=1)
    after = contents(gallery)
    changed = {path.name for path in before if before[path] != after.get(path)}
    assert "000000_panoptic.png" in changed
    assert not any(name.startswith(("000001", "000002")) for name in changed)


def test_of_many_photos_only_the_one_that_changed_is_drawn(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "set", repeat=12)
    gallery = write_gallery(folder, workers=1).parent
    serial = contents(gallery)
    assert contents(write_gallery(folder, tmp_path / "parallel", workers=3).parent) == serial
    times = {path: path.stat().st_mtime_ns for path in gallery.glob("media/*/*")}
    photo = read_panoptic(folder).photos[20]
    with Image.open(folder / "photos" / photo.file_name) as image:
        Image.fromarray(255 - np.asarray(image)).save(folder / "photos" / photo.file_name)
    write_gallery(folder, workers=1)
    drawn = {path.name[:6] for path in gallery.glob("media/*/*") if times.get(path) != path.stat().st_mtime_ns}
    assert drawn == {"000020"}


def test_pictures_that_no_page_shows_are_deleted(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "set", repeat=12)
    gallery = write_gallery(folder, workers=1).parent
    write_gallery(folder, max_images=5, workers=1)
    fresh = write_gallery(folder, tmp_path / "fresh", max_images=5, workers=1).parent
    assert contents(gallery) == contents(fresh)


def test_crops_are_those_of_lists_of_places():
    """The obvious way: every place of a class in a list, and a sample of it."""
    rng = np.random.default_rng(0)
    annotations = [[Annotation(int(c), 1.0, 0) for c in rng.integers(1, 9, rng.integers(0, 6))] for _ in range(200)]
    places, expected = defaultdict(list), defaultdict(list)
    for number, of_photo in enumerate(annotations):
        for position, annotation in enumerate(of_photo):
            places[annotation.category_id].append((number, position))
    for category_id, candidates in places.items():
        for number, position in random.Random(category_id).sample(candidates, min(24, len(candidates))):
            expected[number].append(position)
    assert list(choose_crops(annotations, 24).items()) == list(expected.items())
    assert choose_crops([], 24) == choose_crops([[]], 24) == {}


def test_fewer_photos_leave_no_old_pages(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "set")
    write_gallery(folder, per_page=1, workers=1)
    gallery = write_gallery(folder, per_page=1, max_images=1, workers=1).parent
    assert {path.name for path in gallery.glob("photos_*")} == set()
    assert "Photos 1\u20131 of 1" in (gallery / "index.html").read_text(encoding="utf-8")


def test_missing_photos_and_labels_are_placeholders_and_said(make_dataset, tmp_path, caplog):
    folder = make_dataset(tmp_path / "set")
    shutil.rmtree(folder / "photos" / "ünï")
    (folder / "panoptic" / "astronaut.png").write_bytes(b"no png")
    gallery = write_gallery(folder, workers=1).parent
    assert "1 of 3 photos could not be read" in caplog.text
    assert "1 of 3 photos have labels that could not be read, such as astronaut.jpg: " in caplog.text
    assert "astronaut.png can't be read: it is no PNG" in caplog.text
    page = Page(gallery / "index.html")
    assert page.texts.count("photo: not found") >= 4
    for source in page.every("img", "src"):
        assert (gallery / source).is_file()
    assert "1 of 3 photos could not be read" in "".join(Page(gallery / "run.html").texts)


def test_labels_of_which_none_can_be_read_end_in_their_reason(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "set")
    shutil.rmtree(folder / "panoptic")
    with pytest.raises(DataError, match=r"3 of 3 photos have labels that could not be read, such as .*: there is no"):
        write_gallery(folder, workers=1)
    assert (folder / "gallery" / "index.html").is_file()


def test_no_photo_from_outside_the_set_is_shown(make_dataset, tmp_path, caplog):
    folder = make_dataset(tmp_path / "set")
    secret = tmp_path / "set" / "secret.jpg"
    shutil.copy(folder / "photos" / "astronaut.jpg", secret)
    content = json.loads((folder / "panoptic.json").read_text())
    content["images"][0]["file_name"], content["images"][1]["file_name"] = "../secret.jpg", str(secret)
    (folder / "panoptic.json").write_text(json.dumps(content))
    gallery = write_gallery(folder, workers=1).parent
    assert "2 of 3 photos could not be read" in caplog.text
    assert [path.name for path in sorted(gallery.rglob("*_photo.jpg"))] == ["000002_photo.jpg"]


def test_a_label_with_ids_that_are_not_listed_is_said(make_dataset, tmp_path, caplog):
    folder = make_dataset(tmp_path / "set")
    content = json.loads((folder / "panoptic.json").read_text())
    content["annotations"][0]["segments_info"].pop()
    (folder / "panoptic.json").write_text(json.dumps(content))
    write_gallery(folder, workers=1)
    assert "1 of 3 photos have labels that could not be read" in caplog.text


def test_predictions_are_shown_beside(make_dataset, tmp_path, tiny_dataset):
    gallery = write_gallery(
        tiny_dataset, tmp_path / "g", predictions_dir=make_dataset(tmp_path / "other"), workers=1
    ).parent
    page = Page(gallery / "index.html")
    assert page.every("figure", "data-view") == ["photo", "things", "stuff", "panoptic", "predicted"] * 3
    assert len(list(gallery.glob("media/*/*_predicted.png"))) == 3


def test_predictions_are_found_by_the_end_of_their_path_and_must_be_of_these_photos(
    make_dataset, tmp_path, tiny_dataset
):
    other = make_dataset(tmp_path / "other")
    content = json.loads((other / "panoptic.json").read_text(encoding="utf-8"))
    for image in content["images"]:
        image["file_name"] = f"val\\{image['file_name']}"
    (other / "panoptic.json").write_text(json.dumps(content), encoding="utf-8")
    gallery = write_gallery(tiny_dataset, tmp_path / "g", predictions_dir=other, workers=1).parent
    assert len(list(gallery.glob("media/*/*_predicted.png"))) == 3
    for number, image in enumerate(content["images"]):
        image["file_name"] = f"{number}.jpg"
    (other / "panoptic.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"no photo of .* is in"):
        write_gallery(tiny_dataset, tmp_path / "h", predictions_dir=other, workers=1)
    assert not (tmp_path / "h").exists()


def test_the_first_photos_have_the_predictions_that_they_have_among_all(make_dataset, tmp_path):
    """With the first photo alone, ``x/a.jpg`` would be the only one that ends like ``y/a.jpg``."""

    def rename(folder, *names):
        content = json.loads((folder / "panoptic.json").read_text(encoding="utf-8"))
        for image, name in zip(content["images"], names, strict=True):
            image["file_name"] = name
        content["images"] = [image for image in content["images"] if image["file_name"]]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        (folder / "panoptic.json").write_text(json.dumps(content), encoding="utf-8")
        (folder / "instances.json").unlink()
        return folder

    folder = rename(make_dataset(tmp_path / "set"), "x/a.jpg", "y/a.jpg", "z.jpg")
    other = rename(make_dataset(tmp_path / "other"), "", "y/a.jpg", "")
    gallery = write_gallery(folder, predictions_dir=other, max_images=1, workers=1).parent
    assert not list(gallery.glob("media/*/*_predicted.png"))
    (gallery / "media" / "1 of mine").mkdir()
    gallery = write_gallery(folder, predictions_dir=other, workers=1).parent
    assert [path.name for path in gallery.glob("media/*/*_predicted.png")] == ["000001_predicted.png"]


def test_a_photo_without_a_prediction_is_named_also_where_its_pictures_are_kept(make_dataset, tmp_path, caplog):
    folder, other = make_dataset(tmp_path / "set"), make_dataset(tmp_path / "other")
    content = json.loads((other / "panoptic.json").read_text(encoding="utf-8"))
    content["annotations"].pop()
    (other / "panoptic.json").write_text(json.dumps(content), encoding="utf-8")
    (other / "instances.json").unlink()
    write_gallery(folder, workers=1)
    write_gallery(folder, predictions_dir=other, workers=1)
    assert "1 of 3 photos have no readable prediction" in caplog.text


def test_a_run_may_hold_anything(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "set")
    run = {"skipped": ["a.jpg", {"reason": "empty"}], "weights": None, "timings": 3.5, "new": {"a": []}, "seed": 0}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    text = "".join(Page(write_gallery(folder, workers=1).parent / "run.html").texts)
    assert "a.jpg" in text
    assert "Skipped files (2)" in text


def test_ten_thousand_photos_make_light_pages(tmp_path):
    """Without photos only the pages are written; each stays under a megabyte with 60 segments a photo."""
    name = "a folder with a long name/" * 4 + "{}.jpg"
    site, records = made_up_site(tmp_path, 10_000, name)
    assert len(site.photo_pages) == 209
    for page in (0, 104, 208):
        shown = records[page * 48 : (page + 1) * 48]
        text = photo_page(site, page, shown)
        assert len(text.encode()) < 1_000_000
        assert text.count("<article") == len(shown)
        assert text.count('loading="lazy"') == text.count("<img ")
        assert f"{page * 48 + 1:,}\u2013{page * 48 + len(shown):,} of 10,000" in text


def test_crops_are_drawn_the_same_every_time():
    annotations = [[Annotation(13 * i, 1.0, i) for i in range(1, 61)]] * 1000
    crops = choose_crops(annotations, 24)
    assert sum(map(len, crops.values())) == 24 * 60
    assert crops == choose_crops(annotations, 24)


def test_the_pager_reaches_both_ends_and_both_neighbours(tmp_path):
    site, records = made_up_site(tmp_path, 10_000, "{}.jpg")
    names = site.photo_pages
    for current in (0, 1, 100, 208):
        text = photo_page(site, current, records[48 * current :][:48]).split("</nav>")[1]
        linked = re.findall(r'href="(\w+.html)"', text)
        assert len(linked) < 14
        assert {names[0], names[208]} - {names[current]} <= set(linked)
        assert (f'href="{names[current - 1]}" rel="prev"' in text) == (current > 0)
        assert (current < 208 and f'href="{names[current + 1]}" rel="next"' in text) == (current < 208)


def test_an_empty_dataset_is_a_page_that_says_so(tmp_path):
    empty = {"images": [], "annotations": [], "categories": []}
    (tmp_path / "panoptic.json").write_text(json.dumps(empty), encoding="utf-8")
    index = write_gallery(tmp_path)
    assert "No photos" in index.read_text(encoding="utf-8")
    assert "no run.json" in (index.parent / "run.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no panoptic.json"),
        ({"panoptic.json": "[]"}, "can't be read as JSON"),
        ({"panoptic.json": "{"}, "can't be read"),
        ({"panoptic.json": "{}"}, "no list 'images'"),
        ({"panoptic.json": '{"categories": [], "images": [{}], "annotations": []}'}, "no 'id'"),
    ],
)
def test_what_is_no_dataset_is_refused_in_a_line(tmp_path, capsys, monkeypatch, files, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["visualize_pseudo.py", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("bad", [{"per_page": 0}, {"max_images": 0}, {"per_page": 5000}])
def test_numbers_out_of_range_are_refused(tiny_dataset, tmp_path, bad):
    with pytest.raises(UsageError, match="must be"):
        write_gallery(tiny_dataset, tmp_path / "g", **bad)


def test_an_output_that_can_not_be_written_is_said(tiny_dataset, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="can't be written"):
        write_gallery(tiny_dataset, tmp_path / "file" / "gallery", workers=1)


def test_a_changed_setting_of_another_place_for_photos(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "set")
    os.rename(folder / "photos", tmp_path / "elsewhere")
    gallery = write_gallery(folder, image_root=tmp_path / "elsewhere", workers=1).parent
    assert len(list(gallery.glob("media/*/*_photo.jpg"))) == 3


@pytest.mark.slow
def test_killed_and_run_again_is_as_if_never_disturbed(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "set", repeat=12)
    calm = contents(write_gallery(folder, tmp_path / "calm", workers=1).parent)
    broken = tmp_path / "broken"
    command = [sys.executable, str(TOOL), str(folder), "--output", str(broken), "--workers", "1"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while running.poll() is None and len(list(broken.glob("media/*/*.json"))) < 5:
        time.sleep(0.01)
    assert running.poll() is None, "it was through before it could be killed"
    running.kill()
    running.wait()
    assert not (broken / "index.html").exists()
    subprocess.run(command, check=True, capture_output=True)
    after = {path: data for path, data in contents(broken).items() if ".part" not in path.name}
    assert after == calm
