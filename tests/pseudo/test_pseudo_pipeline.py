"""The label factory with parts that count, fail and run out of memory."""

import json
import os
import re
import shutil
import types
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from u2seg import MaskSet, hookimpl
from u2seg.config import fill, get_pseudo_cfg
from u2seg.errors import DataError, UsageError
from u2seg.images import find_photos
from u2seg.panoptic import read_panoptic
from u2seg.plugins import registry
from u2seg.pseudo import index, publication
from u2seg.pseudo.pipeline import U2SegGenerator
from u2seg.pseudo.record import damaged_files

CALLS = []


class Colours:
    """Features are the colours of 4 x 4 pixels, or their squares in `layer` 2; one pass gives both."""

    dim, stride = 3, 4

    def __init__(self, *, layer: int = 1, prepared: str = "colours"):
        self.layer, self.prepared = layer, prepared

    def prepare(self):
        return {"weights_sha256": self.prepared, "layer": self.layer}

    def extract(self, images):
        return self.extract_with(images, [])[0]

    def shares_pass(self, other):
        return isinstance(other, Colours)

    def extract_with(self, images, others):
        CALLS.append([image.shape for image in images])
        if len(images) > 1 and any(image[0, 0, 0] == 13 for image in images):
            raise RuntimeError("CUDA out of memory")
        if any(image[0, 0, 0] == 14 for image in images):
            raise ValueError("unlucky photo")
        small = [image[::4, ::4].transpose(2, 0, 1).astype(np.float32) / 255 for image in images]
        return [[array**extractor.layer for array in small] for extractor in (self, *others)]

    def embed(self, images):
        return np.array([image.mean(axis=(0, 1)) + 1 for image in images], np.float32).reshape(-1, 3)


class Quarters:
    """The left upper quarter of a photo is a thing."""

    def generate(self, image, features):
        mask = np.zeros((1, *features.shape[1:]), bool)
        mask[0, : features.shape[1] // 2, : features.shape[2] // 2] = True
        return MaskSet(mask, np.float32([0.5]))


class Pixels(Quarters):
    """The same quarter, at every second pixel: a grid of its own."""

    def generate(self, image, features):
        return super().generate(image, features.repeat(2, axis=1).repeat(2, axis=2))


@pytest.fixture
def parts(monkeypatch):
    """The built-in parts and those above."""
    plugin = types.ModuleType("test_parts")
    plugin.u2seg_feature_extractors = hookimpl(lambda: {"colours": Colours})
    plugin.u2seg_mask_generators = hookimpl(lambda: {"quarters": Quarters, "pixels": Pixels})
    for name in ("u2seg_feature_extractors", "u2seg_mask_generators"):
        getattr(plugin, name).__name__ = name
    plugins = registry.load_plugins([], "")
    plugins.add("test_parts", plugin, "test 1.0")
    monkeypatch.setattr(registry, "installed_plugins", lambda: plugins)
    monkeypatch.setattr("u2seg.pseudo.parts.installed_plugins", lambda: plugins)
    monkeypatch.setattr("u2seg.pseudo.record.installed_plugins", lambda: plugins)
    CALLS.clear()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(20, 255, (16, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def make(photos, output, *options, redo=None, stages=("fit", "label", "cluster", "merge")):
    cfg = get_pseudo_cfg()
    base = "FEATURES.NAME colours MASKS.NAME quarters REFINE.NAME none NUM_THINGS 2 NUM_STUFF 2 EXECUTOR.NAME inline"
    base += " STUFF.FEATURES.NAME colours STUFF.FEATURES.ARGS.colours.layer 2 DEVICE cpu"
    words = [*base.split(), *map(str, options)]
    fill(cfg, options=[f"U2SEG.{word}" if index % 2 == 0 else word for index, word in enumerate(words)])
    return U2SegGenerator(cfg, find_photos(str(photos)), output).run(stages, redo)


def result(output):
    files = [path for path in output.rglob("*") if path.is_file() and "stages" not in path.parts]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files if path.name != "run.json"}


pytestmark = pytest.mark.usefixtures("parts")


def test_each_photo_has_one_pass_of_the_network(photos, tmp_path):
    summary = make(photos, tmp_path / "out")
    assert (summary.photos, summary.masks) == (4, 4)
    assert len(CALLS) == 4  # things and stuff, fitting and labelling
    make(photos, tmp_path / "few", "STUFF.FIT_IMAGES", 2)
    assert len(CALLS) == 8
    make(photos, tmp_path / "out")
    assert len(CALLS) == 8


def test_soft_edges_move_an_outline_to_where_the_features_change(photos, tmp_path):
    """The next cell shows both sides, so the left upper quarter reaches into it; not so with features that don't."""
    red, blue = np.uint8([200, 20, 20]), np.uint8([20, 20, 200])
    image = np.full((64, 96, 3), blue)
    image[:32, :48] = red
    areas = {}
    for seen in ("both", "one"):
        image[:32, 48] = (red / 2 + blue / 2) if seen == "both" else blue
        Image.fromarray(image).save(photos / "0.png")
        for soft in (False, True):
            output = tmp_path / f"{seen} {soft}"
            make(photos, output, "MASKS.SOFT_EDGES", soft, "MASKS.MIN_REFINED_IOU", 0)
            instances = json.loads((output / "instances.json").read_text(encoding="utf-8"))["annotations"]
            areas[seen, soft] = min(instances, key=lambda entry: entry["image_id"])["area"]
    assert areas["both", False] == areas["one", False]
    assert areas["both", True] >= areas["one", True] + 32


def test_masks_on_a_grid_of_their_own_keep_their_edges(photos, tmp_path):
    for soft in (False, True):
        make(photos, tmp_path / str(soft), "MASKS.NAME", "pixels", "MASKS.SOFT_EDGES", soft)
    instances = [(tmp_path / name / "instances.json").read_bytes() for name in ("False", "True")]
    assert instances[0] == instances[1]


def test_a_batch_that_fails_is_tried_photo_by_photo(photos, tmp_path):
    image = np.array(Image.open(photos / "1.png"))
    image[0, 0] = 13
    Image.fromarray(image).save(photos / "1.png")
    summary = make(photos, tmp_path / "out", "EXECUTOR.BATCH_SIZE", 4)
    assert (summary.photos, summary.skipped) == (4, {})


def test_only_what_fails_alone_is_named_and_it_is_tried_again(photos, tmp_path):
    image = np.array(Image.open(photos / "1.png"))
    good, image[0, 0] = image.copy(), 14
    Image.fromarray(image).save(photos / "1.png")
    summary = make(photos, tmp_path / "out", "EXECUTOR.BATCH_SIZE", 4)
    (file, reason), *others = summary.skipped.items()
    assert (file, others) == ("1.png", [])
    part = re.escape("feature extractor 'colours' of test 1.0")
    assert re.fullmatch(rf"{part}: ValueError: unlucky photo \(\S*test_pseudo_pipeline\.py:\d+\)", reason)
    assert summary.photos == 3
    Image.fromarray(good).save(photos / "1.png")
    summary = make(photos, tmp_path / "out", "EXECUTOR.BATCH_SIZE", 4)
    assert (summary.photos, summary.skipped) == (4, {})


@pytest.mark.parametrize("product", ["masks", "stuff", "merge"])
@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "gone"])
def test_damaged_intermediate_files_are_made_again(photos, tmp_path, product, damage):
    output = tmp_path / "out"
    make(photos, output)
    before = result(output)
    victim = sorted((output / "stages" / product).rglob("*.*"))[1]
    content = victim.read_bytes()
    changed = {"cut": content[: len(content) // 2], "empty": b"", "flip": bytes([content[0] ^ 255]) + content[1:]}
    victim.unlink() if damage == "gone" else victim.write_bytes(changed[damage])
    make(photos, output, redo=None if product == "merge" else "cluster")
    after = result(output)
    assert after | {"clusters.npz": before["clusters.npz"]} == before  # which notes how often it was redone


@pytest.fixture
def small_shards(monkeypatch):
    """Two records make a full shard, and one is worth one."""
    monkeypatch.setattr(index, "SHARD_RECORDS", 2)
    monkeypatch.setattr(index, "FEWEST_RECORDS", 1)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("product", ["masks", "stuff", "merge"])
@pytest.mark.parametrize("damage", ["cut", "empty", "record", "header", "directory", "gone"])
def test_damaged_shards_are_made_again(photos, tmp_path, product, damage):
    output = tmp_path / "out"
    make(photos, output)
    before = result(output)
    assert not [path for path in (output / "stages" / product).rglob("*.*") if path.suffix not in (".zip", ".png")]
    victim = sorted((output / "stages" / product).rglob("*.zip"))[1]
    content = bytearray(victim.read_bytes())
    flips = {"record": 60, "header": 2, "directory": content.rindex(b"PK\1\2") + 16}  # 16: the CRC of the last record
    if damage in flips:
        content[flips[damage]] ^= 1
    victim.unlink()
    if damage != "gone":
        victim.write_bytes({"cut": content[:-30], "empty": b""}.get(damage, content))
    calls = len(CALLS)
    make(photos, output, redo=None if product == "merge" else "cluster")
    after = result(output)
    assert after | {"clusters.npz": before["clusters.npz"]} == before
    assert len(CALLS) - calls == {"merge": 0}.get(product, 1 if damage in flips else 2)


@pytest.mark.usefixtures("small_shards")
def test_photos_that_come_and_go_leave_their_shards(photos, tmp_path):
    output = tmp_path / "out"
    make(photos, output)
    (photos / "0.png").unlink()
    shutil.copy(photos / "3.png", photos / "9.png")
    make(photos, output)
    shards = [path for path in (output / "stages" / "masks").rglob("*.zip")]
    records = [name for path in shards for name in zipfile.ZipFile(path).namelist()]
    assert len(set(records)) == len(records) == 5  # the one that is gone fills no more than half of a shard
    annotations = json.loads((output / "panoptic.json").read_text())["annotations"]
    names = {annotation["file_name"] for annotation in annotations}
    assert names == {"1.png", "2.png", "3.png", "9.png"} == {path.name for path in (output / "panoptic").iterdir()}


def test_nothing_to_do_reads_no_label(photos, tmp_path, monkeypatch):
    output = tmp_path / "out"
    first = make(photos, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    monkeypatch.setattr(publication, "file_sha256", pytest.fail)
    monkeypatch.setattr(publication, "read_entry", pytest.fail)
    second = make(photos, output)
    assert (second.photos, second.masks, second.void_share) == (first.photos, first.masks, first.void_share)
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"run.json", "lock"}


def test_one_photo_more_reads_each_record_twice(photos, tmp_path, monkeypatch):
    """Once to see that the label is whole and what it comes to, once for the JSON files."""
    output, read_entry, keys = tmp_path / "out", publication.read_entry, []
    monkeypatch.setattr(publication, "read_entry", lambda files, key: keys.append(key) or read_entry(files, key))
    for _ in range(2):
        keys.clear()
        labelled = make(photos, output).photos
        assert sorted(Counter(keys).values()) == [2] * labelled
        shutil.copy(photos / "3.png", photos / "9.png")


@pytest.mark.parametrize("damage", ["missing", "shorter", "touched", "flipped"])
@pytest.mark.parametrize("name", ["panoptic/1.png", "panoptic.json", "instances.json", "SHA256SUMS"])
def test_a_change_of_the_published_is_noticed(photos, tmp_path, name, damage):
    output = tmp_path / "out"
    make(photos, output)
    before, path = result(output), output / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"shorter": content[:-1], "touched": content}.get(damage, content[:-9] + b"!" + content[-8:]))
    make(photos, output)
    assert result(output) == before


def test_what_a_killed_run_left_half_written_is_swept(photos, tmp_path):
    output = tmp_path / "out"
    make(photos, output)
    before = result(output)
    for name in (f".{'0' * 32}.part.json", f"stages/.{'2' * 32}.part.json", f"panoptic/.{'1' * 32}.part.png"):
        (output / name).write_bytes(b"half")
    (output / "panoptic.json").unlink()
    make(photos, output)
    assert result(output) == before
    assert not [*output.rglob(".*.part.*")]


@pytest.mark.parametrize("linked", [True, False])
def test_a_damaged_source_never_takes_the_place_of_a_published_label(photos, tmp_path, monkeypatch, linked):
    if not linked:  # as on a file system without links
        monkeypatch.setattr(publication.os, "link", no_links)
    output = tmp_path / "out"
    make(photos, output)
    label = output / "panoptic" / "1.png"
    before, (source,) = result(output), [p for p in output.rglob("stages/merge/*/*/*.png") if same(p, label)]
    source.unlink()
    source.write_bytes(b"half a PNG")
    (output / "instances.json").unlink()
    make(photos, output)
    assert result(output) == before
    label.unlink()
    make(photos, output)
    assert result(output) == before


def no_links(source, target):
    raise OSError("no links here")


def same(path, other):
    return path.read_bytes() == other.read_bytes()


def test_damage_that_keeps_size_and_time_is_mended_after_it_was_verified(photos, tmp_path):
    output = tmp_path / "out"
    make(photos, output)
    before, path = result(output), output / "panoptic" / "1.png"
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    make(photos, output)
    assert damaged_files(output) == {"panoptic/1.png": "changed since it was written"}
    publication.forget_publication(output)  # as --verify does
    make(photos, output)
    assert result(output) == before
    assert damaged_files(output) == {}


def test_a_directory_without_shards_and_notes_is_taken_up(photos, tmp_path, monkeypatch):
    """As an earlier version left it: files alone."""
    output = tmp_path / "out"
    make(photos, output)
    before, calls = result(output), len(CALLS)
    publication.forget_publication(output)
    monkeypatch.setattr(index, "FEWEST_RECORDS", 1)
    shutil.copy(photos / "3.png", photos / "9.png")
    make(photos, output)
    assert len(CALLS) == calls + 1
    assert not list((output / "stages" / "masks").rglob("*.npz"))
    after = result(output)
    kept = [name for name in before if name not in ("panoptic.json", "instances.json", "SHA256SUMS")]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert "panoptic/9.png" in after


def test_labels_of_many_photos_lie_in_subfolders(photos, tmp_path, monkeypatch):
    output = tmp_path / "out"
    make(photos, output)
    names = sorted(path.name for path in (output / "panoptic").iterdir())
    monkeypatch.setattr("u2seg.images.finding.MOST_IN_FOLDER", 3)
    make(photos, output)
    labels = [path.relative_to(output / "panoptic") for path in (output / "panoptic").rglob("*.png")]
    assert sorted(label.name for label in labels) == names
    assert all(re.fullmatch(r"[0-9a-f]{2}/\d\.png", label.as_posix()) for label in labels)
    assert damaged_files(output) == {}
    dataset = read_panoptic(output)
    assert {photo.label for photo in dataset.photos} == {label.as_posix() for label in labels}
    assert all(dataset.read_ids(photo).shape == (16, 24) for photo in dataset.photos)
    (photos / "0.png").unlink()
    make(photos, output)
    assert sorted(path.name for path in (output / "panoptic").iterdir()) == names[1:]


@pytest.mark.parametrize("name", ["clusters.npz", "stuff.npz"])
def test_damaged_fits_are_made_again(photos, tmp_path, name):
    output = tmp_path / "out"
    make(photos, output)
    before = result(output)
    (output / name).write_bytes(b"PK half a file")
    make(photos, output)
    assert result(output) == before


def test_other_clusters_leave_the_stuff_alone(photos, tmp_path):
    output = tmp_path / "out"
    make(photos, output)
    stuff = {path: path.stat().st_mtime_ns for path in (output / "stages" / "stuff").rglob("*.png")}
    calls = len(CALLS)
    make(photos, output, "NUM_THINGS", 3, redo="cluster")
    assert len(CALLS) == calls
    assert {path: path.stat().st_mtime_ns for path in (output / "stages" / "stuff").rglob("*.png")} == stuff
    assert len(json.loads((output / "panoptic.json").read_text())["categories"]) == 5


def test_a_refused_or_failed_redo_leaves_the_dataset_as_it_was(photos, tmp_path):
    output = tmp_path / "out"
    make(photos, output)
    before = result(output)
    with pytest.raises(UsageError, match="made with other settings"):
        make(photos, output, "MASKS.MIN_REFINED_IOU", 0.1, redo="merge")
    with pytest.raises(UsageError, match="1000 clusters"):
        make(photos, output, "NUM_THINGS", 1000, redo="cluster")
    assert result(output) == before
    make(photos, output)
    assert result(output) == before


def test_a_publication_that_fails_leaves_labels_of_photos_that_are_gone(photos, tmp_path, monkeypatch):
    output = tmp_path / "out"
    make(photos, output)
    before = result(output)
    next(path for path in sorted(photos.iterdir()) if path.is_file()).unlink()

    def full(*_, **__):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(publication, "write_dataset", full)
        with pytest.raises(OSError, match="no space"):
            make(photos, output)
    assert before.keys() <= result(output).keys()
    make(photos, output)
    assert len(result(output)) < len(before)


def test_photos_come_and_go(photos, tmp_path):
    output = tmp_path / "out"
    make(photos, output)
    ids = {image["file_name"]: image["id"] for image in json.loads((output / "panoptic.json").read_text())["images"]}
    calls = len(CALLS)
    (photos / "1.png").unlink()
    shutil.copy(photos / "3.png", photos / "0a.png")
    image = np.array(Image.open(photos / "2.png"))
    Image.fromarray(255 - image).save(photos / "2.png")
    summary = make(photos, output)
    assert summary.photos == 4
    assert len(CALLS) == calls + 2  # the new one and the changed one
    after = {image["file_name"]: image["id"] for image in json.loads((output / "panoptic.json").read_text())["images"]}
    assert after == {"0.png": ids["0.png"], "2.png": ids["2.png"], "3.png": ids["3.png"], "0a.png": 5}
    assert sorted(path.name for path in (output / "panoptic").iterdir()) == ["0.png", "0a.png", "2.png", "3.png"]
    assert len(list((output / "stages" / "masks").rglob("*.npz"))) == 4


def test_clusters_of_other_features_are_refused_by_name(photos, tmp_path):
    make(photos, tmp_path / "first")
    reuse = ["CLUSTERS.REUSE", tmp_path / "first"]
    make(photos, tmp_path / "same", *reuse)
    for options, words in (
        (["FEATURES.ARGS.colours.layer", 2], r"clusters\.npz .*U2SEG\.FEATURES\.layer was 1 there and is 2 here"),
        (["FEATURES.ARGS.colours.prepared", "x"], r'weights_sha256 was "colours" there and is "x" here'),
        (["CLUSTERS.EMBEDDING", "mean"], r'EMBEDDING was "crop" there and is "mean" here'),
        (["STUFF.FEATURES.ARGS.colours.layer", 3], r"stuff\.npz .*layer was 2 there and is 3 here"),
    ):
        with pytest.raises(UsageError, match=words):
            make(photos, tmp_path / "other", *reuse, *options)
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("option", [("CLUSTERS.MIN_SCORE", 0.1), ("CLUSTERS.MAX_OVERLAP", 0.5)])
def test_clusters_that_can_not_name_masks_without_a_vector_are_refused(photos, tmp_path, option):
    make(photos, tmp_path / "all")
    with pytest.raises(UsageError, match=r"REUSE '.*all' was made with a vector for every mask, .*MIN_SCORE 0 and "):
        make(photos, tmp_path / "other", "CLUSTERS.REUSE", tmp_path / "all", *option)
    assert not (tmp_path / "other").exists()
    make(photos, tmp_path / "some", *option)
    reuse = ["CLUSTERS.REUSE", tmp_path / "some"]
    assert make(photos, tmp_path / "of_all", *reuse).masks == make(photos, tmp_path / "of_some", *reuse, *option).masks


def test_someone_elses_folder_is_left_alone(photos, tmp_path):
    human = tmp_path / "human"
    (human / "panoptic").mkdir(parents=True)
    (human / "panoptic.json").write_text("{}")
    with pytest.raises(UsageError, match="files that u2seg did not write"):
        make(photos, human, redo="masks")
    assert (human / "panoptic.json").read_text() == "{}"


def test_a_folder_beside_a_photo_of_its_name(photos, tmp_path):
    (photos / "a.png").mkdir()
    shutil.copy(photos / "0.png", photos / "a.png" / "x.png")
    shutil.copy(photos / "0.png", photos / "a.jpg")
    assert make(photos, tmp_path / "out").photos == 6


def test_a_folder_takes_the_place_of_a_label_and_a_label_that_of_a_folder(photos, tmp_path):
    output, folder = tmp_path / "out", photos / "a.png" / "below"
    shutil.copy(photos / "0.png", photos / "a.jpg")
    make(photos, output)
    folder.mkdir(parents=True)
    shutil.copy(photos / "0.png", folder / "x.png")
    assert make(photos, output).photos == 6
    assert {path for path in result(output) if "/a" in path} == {"panoptic/a.jpg.png", "panoptic/a.png/below/x.png"}
    shutil.rmtree(photos / "a.png")
    assert make(photos, output).photos == 5
    assert {path for path in result(output) if "/a" in path} == {"panoptic/a.png"}
    assert damaged_files(output) == {}


def test_no_masks_at_all_is_one_line(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Quarters, "generate", lambda self, image, features: MaskSet.empty(*features.shape[1:]))
    with pytest.raises(DataError, match="no masks were found"):
        make(photos, tmp_path / "out")


def test_a_list_of_checksums_deletes_nothing_outside_of_the_output(photos, tmp_path):
    output, outside = tmp_path / "out", tmp_path / "outside.txt"
    make(photos, output)
    outside.write_text("mine")
    with (output / "SHA256SUMS").open("a") as file:
        file.writelines(f"{'0' * 64}  {name}\n" for name in ("../outside.txt", outside, "panoptic/gone.png"))
    (output / "panoptic" / "gone.png").write_bytes(b"")
    publication.forget_publication(output)
    make(photos, output)
    assert outside.read_text() == "mine"
    assert not (output / "panoptic" / "gone.png").exists()
