"""A tiny dataset in the layout of tools/generate_pseudo.py: shipped photos, synthetic masks, awkward file names."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2seg.structures import LabelSpace

NAMES = ("astronaut.jpg", 'sub dir/chelsea "the <b>cat</b>" & co\'s.png', "ünï/コーヒー #1 100%.jpg")
SPACE = LabelSpace(5, 3)


def ellipse(shape: tuple[int, int], y: float, x: float, radius: float) -> np.ndarray:
    """bool (H, W): a disc about (y, x), fractions of the size, with ``radius`` a fraction of the height."""
    rows, columns = np.indices(shape)
    return (rows - y * shape[0]) ** 2 + (columns - x * shape[1]) ** 2 <= (radius * shape[0]) ** 2


def encode(mask: np.ndarray) -> dict:
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}


def label_photo(image_id: int, shape: tuple[int, int], folder: Path, name: str) -> tuple[dict, list[dict]]:
    """Write the label of one photo: two overlapping things over two stuff halves, a corner void."""
    masks = [ellipse(shape, 0.45, 0.4, 0.3), ellipse(shape, 0.6, 0.6, 0.15)]
    clusters, scores = [image_id % 4 + 1, 1], [0.9, 0.25 * image_id]
    stuff = np.full(shape, 255, np.uint8)
    stuff[: shape[0] // 2] = 0
    stuff[shape[0] // 2 :] = 1 + image_id % 2
    stuff[: shape[0] // 6, : shape[1] // 6] = 255
    ids = np.zeros(shape, np.int32)
    info, instances = [], []
    for value in np.unique(stuff[stuff < 255]):
        info.append({"id": 300 + int(value), "category_id": SPACE.stuff_category(int(value)), "score": 1.0})
        ids[stuff == value] = 300 + int(value)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
        info.append({"id": number, "category_id": clusters[number - 1], "score": scores[number - 1]})
        box = [int(np.flatnonzero(mask.any(axis=a))[0]) for a in (0, 1)]
        instances.append(
            {"image_id": image_id, "category_id": clusters[number - 1], "score": scores[number - 1], "iscrowd": 0}
            | {"area": int(mask.sum()), "bbox": [*box, 1, 1], "segmentation": encode(mask)}
        )
    for segment in info:
        thing = int(SPACE.is_thing(segment["category_id"]))
        segment |= {"isthing": thing, "area": int((ids == segment["id"]).sum()), "bbox": [0, 0, 1, 1], "iscrowd": 0}
    png = str(Path(name).with_suffix(".png"))
    target = folder / "panoptic" / png
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(target)
    return {"image_id": image_id, "file_name": png, "segments_info": info}, instances


@pytest.fixture(scope="session")
def make_dataset():
    """A function that writes the dataset into a folder and returns the folder."""
    from skimage import data

    photos = [data.astronaut()[::2, ::2], data.chelsea()[::2, ::2], data.coffee()[::2, ::2]]

    def make(folder: Path, with_instances: bool = True, repeat: int = 1) -> Path:
        images, annotations, instances = [], [], []
        for image_id in range(1, 3 * repeat + 1):
            photo, name = photos[(image_id - 1) % 3], NAMES[(image_id - 1) % 3]
            name = name if image_id <= 3 else f"more/{image_id}-{Path(name).name}"
            place = folder / "photos" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo).save(place)
            height, width = photo.shape[:2]
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            annotation, found = label_photo(image_id, (height, width), folder, name)
            annotations.append(annotation)
            instances += found
        info = {"description": "made up", "image_root": "photos", "caveats": ["Masks are <made> up & not found."]}
        sets = {"panoptic.json": {"info": info, "images": images, "annotations": annotations}}
        sets["panoptic.json"]["categories"] = SPACE.categories()
        if with_instances:
            sets["instances.json"] = {"images": images, "annotations": instances}
        sets["run.json"] = {
            "config": {"U2SEG": {"NUM_THINGS": 5, "MASKS": {"NAME": "maskcut", "ARGS": {"maskcut": {"tau": 0.6}}}}},
            "seed": 7,
            "versions": {"u2seg": "0"},
            "plugins": [],
            "weights": [{"uri": "pip://x", "sha256": "0", "caveat": "Tuned with <labels>."}],
            "counts": {"images": 3 * repeat},
            "timings": {"masks": 1.5},
            "skipped": [{"file": "<script>alert(1)</script>.jpg", "reason": "empty file"}],
        }
        for name, value in sets.items():
            (folder / name).write_text(json.dumps(value), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_dataset(make_dataset, tmp_path_factory) -> Path:
    """The dataset, for tests that only read it."""
    return make_dataset(tmp_path_factory.mktemp("set with space"))


@pytest.fixture(scope="session")
def tiny_gallery(tiny_dataset, tmp_path_factory) -> Path:
    """Its gallery, two photos a page, for tests that only read it."""
    from u2seg.report.gallery import write_gallery

    return write_gallery(tiny_dataset, tmp_path_factory.mktemp("out") / "gallery 1", per_page=2, workers=1).parent
