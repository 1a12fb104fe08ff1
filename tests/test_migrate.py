"""Snippets of docs/migrate.md for tools of others, run as they stand, where these are installed."""

import re
import types
from pathlib import Path

import numpy as np
import pytest
from synthetic_panoptic import write_dataset

from u2seg.panoptic import instance_entry, read_panoptic
from u2seg.panoptic import write_dataset as write_files
from u2seg.panoptic.writing import Entry

PAGE = (Path(__file__).parents[1] / "docs" / "migrate.md").read_text(encoding="utf-8")


def snippet(mark):
    """The code block of the page that holds ``mark``."""
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if mark in code]
    return block


@pytest.fixture
def labels(tmp_path, monkeypatch):
    """``my_labels`` in the working directory, with photos in it."""
    root = write_dataset(tmp_path / "my_labels", photos=2, num_things=2, num_stuff=2)
    monkeypatch.chdir(tmp_path)
    return read_panoptic(root)


def test_mask2former_takes_the_segments(labels):
    transformers = pytest.importorskip("transformers")
    photo = labels.photos[0]
    ids = labels.read_ids(photo)
    rgb = np.zeros((*ids.shape, 3), np.uint8)
    processor = transformers.Mask2FormerImageProcessor(do_resize=False)
    names = {"processor": processor, "rgb": rgb}
    exec(snippet("processor("), names)
    (masks,), (classes,) = names["inputs"]["mask_labels"], names["inputs"]["class_labels"]
    segments = {segment.id: segment.category_id - 1 for segment in photo.segments if (ids == segment.id).any()}
    assert sorted(classes.tolist()) == sorted(segments.values())
    height, width = ids.shape
    areas = sorted(int(mask[:height, :width].sum()) for mask in masks)
    assert areas == sorted(int((ids == number).sum()) for number in segments)


def test_fiftyone_takes_the_instances(labels, monkeypatch):
    """By its importer, which needs no database; the snippet hands it these files."""
    pytest.importorskip("fiftyone")
    from fiftyone.utils.coco import COCODetectionDatasetImporter

    photo = labels.photos[0]
    mask = labels.read_ids(photo) == photo.segments[0].id
    image = {"id": photo.image_id, "file_name": photo.file_name, "height": photo.height, "width": photo.width}
    entry = Entry(image, photo.label, [], [instance_entry(mask, 1, 0.5)])
    write_files(labels.root, {}, labels.label_space().categories(), lambda: [entry])
    code = snippet("fiftyone").replace("my_photos", str(labels.image_root))
    given = {}
    fiftyone = types.SimpleNamespace(
        types=types.SimpleNamespace(COCODetectionDataset="COCO"),
        Dataset=types.SimpleNamespace(from_dir=lambda dataset_type, **options: given.update(options)),
        launch_app=lambda _: None,
    )
    exec(code.replace("import fiftyone as fo", ""), {"fo": fiftyone})
    importer = COCODetectionDatasetImporter(**given)
    importer.setup()
    ((_, _, label),) = [sample for sample in importer if sample[2]]
    (detection,) = label.detections
    assert detection.label == "1"
    assert int(detection.mask.sum()) == int(mask.sum())
