"""Tiny panoptic datasets on disk: coloured rectangles (things) on two-coloured ground (stuff)."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from u2seg.structures import LabelSpace

QUICK_CONFIG = Path(__file__).parents[1] / "configs" / "quick_schedules" / "u2seg_R18_instant_test.yaml"
TINY_CONFIG = Path(__file__).with_name("tiny.yaml")
"""A model that trains a step in a fraction of a second."""


def draw(rng, height=48, width=64, num_things=3, num_stuff=2, things=3):
    """A photo uint8 (H, W, 3), ids int32 (H, W), and segments_info with file category ids."""
    space = LabelSpace(num_things, num_stuff)
    ids = np.zeros((height, width), np.int32)
    image = rng.integers(0, 40, (height, width, 3))
    segments = []

    def add(region, category):
        segments.append(
            {
                "id": len(segments) + 1,
                "category_id": category,
                "iscrowd": 0,
                "score": 0.25 + 0.25 * len(segments) % 0.75,
            }
        )
        ids[region] = len(segments)
        hue = np.array([(category * 67) % 200, (category * 131) % 200, (category * 29) % 200]) + 40
        image[region] = np.clip(hue + rng.integers(-15, 15, image[region].shape), 0, 255)

    add(np.s_[: height // 2, 4:], space.stuff_category(0))
    add(np.s_[height // 2 :, 4:], space.stuff_category(1 % num_stuff))
    for _ in range(things):
        h, w = rng.integers(height // 4, height // 2), rng.integers(width // 4, width // 2)
        y, x = rng.integers(0, height - h), rng.integers(0, width - w)
        add(np.s_[y : y + h, x : x + w], space.thing_category(rng.integers(num_things)))
    visible = set(np.unique(ids))
    segments = [segment for segment in segments if segment["id"] in visible]
    for segment in segments:
        rows, columns = np.nonzero(ids == segment["id"])
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        segment.update(area=len(rows), bbox=[int(part) for part in box])
        segment["isthing"] = int(space.is_thing(segment["category_id"]))
    return image.astype(np.uint8), ids, segments


def write_dataset(root, photos=4, seed=0, num_things=3, num_stuff=2, **options):
    """Write a dataset as tools/generate_pseudo.py does; photos lie in root/images."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    (root / "panoptic").mkdir()
    images, annotations = [], []
    for index in range(1, photos + 1):
        image, ids, segments = draw(rng, num_things=num_things, num_stuff=num_stuff, **options)
        Image.fromarray(image).save(root / "images" / f"{index}.png")
        colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        Image.fromarray(colours).save(root / "panoptic" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "height": ids.shape[0], "width": ids.shape[1]})
        annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": segments})
    write_json(
        root,
        {
            "info": {"image_root": "images"},
            "images": images,
            "annotations": annotations,
            "categories": LabelSpace(num_things, num_stuff).categories(),
        },
    )
    return root


def write_json(root, content):
    (root / "panoptic.json").write_text(json.dumps(content))


def read_json(root):
    return json.loads((root / "panoptic.json").read_text())
