"""Panoptic datasets on disk: the one reader and the one writer of the format.

A dataset is a directory with ``panoptic.json`` (COCO panoptic) and ``panoptic/*.png``, whose colours code segment ids
as R + 256 G + 65536 B; ``instances.json`` holds whole masks, which may overlap. ``info.image_root`` says where the
photos lie (else ``images/``), ``info.panoptic_root`` where the PNGs lie (else ``panoptic/``), both relative to it.

Shapes: ``H, W`` image pixels.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from u2seg.errors import DataError, UsageError
from u2seg.files import write_json_lists
from u2seg.structures import LabelSpace, category_color

PANOPTIC_JSON, INSTANCES_JSON, RUN_JSON = "panoptic.json", "instances.json", "run.json"
LARGEST_ID = 256**3 - 1


@dataclass(frozen=True)
class Category:
    """One entry of ``categories``: a human class, or a cluster."""

    id: int
    name: str
    supercategory: str
    """Empty where the file gives none."""
    isthing: bool
    color: tuple[int, int, int]
    """RGB, 0..255"""


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One entry of ``segments_info``. Area and box are not here: they come from the PNG."""

    id: int
    category_id: int
    isthing: bool
    iscrowd: bool = False
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class LabelledPhoto:
    """One photo and its label."""

    image_id: Any
    """As in the file, mostly a number."""
    file_name: str
    """Of the photo, below the image root, with slashes."""
    height: int
    width: int
    label: str
    """``file_name`` of the annotation: the PNG below the panoptic root."""
    segments: tuple[SegmentInfo, ...]

    @property
    def stem(self) -> str:
        """File name of the photo without folder and ending."""
        return PurePosixPath(self.file_name).stem


@dataclass(frozen=True)
class PanopticDataset:
    """A labelled set as its JSON describes it; no pixel is read."""

    json_file: Path
    image_root: Path
    panoptic_root: Path
    categories: tuple[Category, ...]
    """In rising order of id."""
    photos: tuple[LabelledPhoto, ...]
    """Those that have an annotation, in the order of the annotations."""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The dataset's directory."""
        return self.json_file.parent

    @cached_property
    def things(self) -> tuple[Category, ...]:
        """Thing categories, in rising order of id."""
        return tuple(category for category in self.categories if category.isthing)

    @cached_property
    def stuff(self) -> tuple[Category, ...]:
        """Stuff categories, in rising order of id."""
        return tuple(category for category in self.categories if not category.isthing)

    def label_space(self) -> LabelSpace:
        """K and S of a dataset whose categories are numbered things 1..K, then stuff K+1..K+S.

        Raises:
            DataError: they are numbered otherwise.
        """
        space = LabelSpace(len(self.things), len(self.stuff))
        ordered = [category.id for category in (*self.things, *self.stuff)]
        if ordered != list(range(1, len(ordered) + 1)):
            raise DataError(f"{self.json_file}: categories are not numbered things 1..K, then stuff K+1..K+S")
        return space

    def photo_path(self, photo: LabelledPhoto) -> Path:
        """Where the photo itself lies."""
        return self.image_root / photo.file_name

    def png_path(self, photo: LabelledPhoto) -> Path:
        """Where its panoptic PNG lies."""
        return self.panoptic_root / photo.label

    def read_ids(self, photo: LabelledPhoto) -> np.ndarray:
        """Segment ids int32 (H, W) of ``photo``, 0 for none.

        Raises:
            DataError: the PNG is missing, broken, or of another size than the JSON says.
        """
        path = self.png_path(photo)
        ids = read_ids(path)
        if ids.shape != (photo.height, photo.width):
            raise DataError(
                f"{path} has {ids.shape[1]} x {ids.shape[0]} pixels (width x height), "
                f"{self.json_file.name} says {photo.width} x {photo.height}"
            )
        return ids


def read_panoptic(
    source: str | Path, panoptic_root: str | Path | None = None, image_root: str | Path | None = None
) -> PanopticDataset:
    """Read a COCO panoptic dataset.

    Args:
        source: its directory, or its JSON file.
        panoptic_root: folder of the PNGs, if other than the file says.
        image_root: folder of the photos, if other than the file says.

    Raises:
        UsageError: there is no such dataset.
        DataError: the file is no COCO panoptic JSON, or contradicts itself.
    """
    file = Path(source).expanduser()
    if file.is_dir():
        if not (file / PANOPTIC_JSON).is_file():
            raise UsageError(
                f"dataset directory {str(file)!r} holds no {PANOPTIC_JSON}; tools/generate_pseudo.py makes one"
            )
        file = file / PANOPTIC_JSON
    content = read_json_object(file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(f"{file} is no COCO panoptic JSON: it has no list {key!r}")
    info = content.get("info") or {}
    try:
        categories = _categories(content["categories"], file)
        photos = _photos(content, {category.id: category.isthing for category in categories}, file)
        photo_folder = _folder(image_root, info, "image_root", "images", file)
        png_folder = _folder(panoptic_root, info, "panoptic_root", "panoptic", file)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        missing = f"an entry has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise DataError(f"{file} is no COCO panoptic JSON: {missing}") from error
    return PanopticDataset(file, photo_folder, png_folder, categories, photos, info)


def _folder(given: str | Path | None, info: Mapping[str, Any], key: str, default: str, file: Path) -> Path:
    """The folder that was ``given``, else the one that ``info`` names, relative to that of ``file``."""
    return Path(given).expanduser() if given else file.parent / Path(str(info.get(key) or default)).expanduser()


def _categories(entries: list[dict[str, Any]], file: Path) -> tuple[Category, ...]:
    found = []
    for entry in entries:
        if "isthing" not in entry:
            raise DataError(f"{file} is no panoptic JSON: category {entry.get('name')!r} has no 'isthing'")
        number = int(entry["id"])
        red, green, blue = entry.get("color") or category_color(number)
        name, supercategory = str(entry.get("name", f"category {number}")), str(entry.get("supercategory") or "")
        found.append(Category(number, name, supercategory, _flag(entry["isthing"]), (int(red), int(green), int(blue))))
    found.sort(key=lambda category: category.id)
    for first, second in itertools.pairwise(found):
        if first.id == second.id:
            raise DataError(f"{file}: category id {first.id} is given twice")
    return tuple(found)


def _flag(value: Any) -> bool:
    """A JSON flag, which some tools write as text."""
    return value.strip().lower() in ("1", "true") if isinstance(value, str) else bool(value)


def _photos(content: Mapping[str, Any], isthing: Mapping[int, bool], file: Path) -> tuple[LabelledPhoto, ...]:
    images: dict[Any, Mapping[str, Any]] = {}
    for image in content["images"]:
        if image["id"] in images:
            raise DataError(f"{file}: image id {image['id']!r} is given twice")
        images[image["id"]] = image
    photos, seen = [], set()
    for annotation in content["annotations"]:
        if "segments_info" not in annotation:
            raise DataError(f"{file} is no panoptic JSON: its annotations have no 'segments_info'")
        key = annotation["image_id"]
        if key not in images:
            raise DataError(f"{file}: the annotation of image id {key!r} has no entry in 'images'")
        if key in seen:
            raise DataError(f"{file}: image id {key!r} has two annotations")
        seen.add(key)
        image = images[key]
        name = str(image["file_name"]).replace("\\", "/")
        photos.append(
            LabelledPhoto(
                image_id=key,
                file_name=name,
                height=int(image["height"]),
                width=int(image["width"]),
                label=str(annotation["file_name"]).replace("\\", "/"),
                segments=_segments(annotation["segments_info"], isthing, file, name),
            )
        )
    return tuple(photos)


def _segments(
    entries: Sequence[Mapping[str, Any]], isthing: Mapping[int, bool], file: Path, name: str
) -> tuple[SegmentInfo, ...]:
    found: dict[int, SegmentInfo] = {}
    for entry in entries:
        number, category = int(entry["id"]), int(entry["category_id"])
        if category not in isthing:
            raise DataError(f"{file}: segment {number} of {name} has category_id {category}, not in 'categories'")
        if "isthing" in entry and _flag(entry["isthing"]) != isthing[category]:
            raise DataError(f"{file}: segment {number} of {name} and its category {category} disagree on 'isthing'")
        if number in found:
            raise DataError(f"{file}: segment id {number} of {name} is given twice")
        if not 0 < number <= LARGEST_ID:
            raise DataError(f"{file}: segment id {number} of {name} is not from 1 to {LARGEST_ID}")
        score = float(entry.get("score", 1.0))
        found[number] = SegmentInfo(number, category, isthing[category], _flag(entry.get("iscrowd", 0)), score)
    return tuple(found.values())


def read_instances(dataset: PanopticDataset) -> dict[Any, list[dict[str, Any]]] | None:
    """Annotations of the ``instances.json`` beside ``dataset``, by image id; None where there is no such file.

    Each has ``category_id`` (a thing's), ``segmentation`` (run-length code ``{"size": [H, W], "counts": str}``),
    ``area``, ``bbox``, ``score`` and ``segment_id``: the segment of the panoptic label that shows it, 0 for none, or
    None where the file does not say.

    Raises:
        DataError: the file is damaged, or names photos or categories that ``dataset`` does not have.
    """
    file = dataset.root / INSTANCES_JSON
    if not file.is_file():
        return None
    content = read_json_object(file)
    things = {category.id for category in dataset.things}
    found: dict[Any, list[dict[str, Any]]] = {photo.image_id: [] for photo in dataset.photos}
    try:
        for entry in content["annotations"]:
            category = int(entry["category_id"])
            if category not in things:
                raise DataError(f"{file}: annotation {entry.get('id')} has category_id {category}, which is no thing")
            if entry["image_id"] not in found:
                raise DataError(f"{file}: image id {entry['image_id']!r} has no label in {PANOPTIC_JSON}")
            score, segment = float(entry.get("score", 1.0)), entry.get("segment_id")
            found[entry["image_id"]].append({**entry, "category_id": category, "score": score, "segment_id": segment})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is no COCO instances JSON: {type(error).__name__} {error}") from error
    return found


class Entry(NamedTuple):
    """What the JSON files say of one photo."""

    image: Mapping[str, Any]
    """Entry of ``images``: ``id``, ``file_name``, ``height``, ``width``."""
    label: str
    """The PNG below the panoptic root."""
    segments: Sequence[Mapping[str, Any]]
    """``segments_info``"""
    instances: Sequence[Mapping[str, Any]] = ()
    """Annotations for ``instances.json`` without ``id`` and ``image_id``, as `instance_entry` makes them."""


def write_dataset(
    root: Path,
    info: Mapping[str, Any],
    categories: Sequence[Mapping[str, Any]],
    entries: Callable[[], Iterable[Entry]],
    instances: bool = True,
) -> Path:
    """Write ``instances.json``, then ``panoptic.json``, whose presence says that the dataset is whole.

    Args:
        root: the dataset's directory, with the PNGs in it already.
        info: ``image_root`` and whatever else there is to say of the set.
        categories: as `LabelSpace.categories` gives them.
        entries: called for each list that is written, so that they need not be in memory at once.
        instances: whether to write ``instances.json``.

    Returns:
        ``panoptic.json``.
    """
    if instances:
        things = [category for category in categories if category["isthing"]]
        counter = itertools.count(1)
        annotations = (
            {"id": next(counter), "image_id": entry.image["id"], **instance}
            for entry in entries()
            for instance in entry.instances
        )
        lists = {"images": (entry.image for entry in entries()), "annotations": annotations}
        write_json_lists(root / INSTANCES_JSON, {"info": info, "categories": things}, lists)
    labels = (
        {"image_id": entry.image["id"], "file_name": entry.label, "segments_info": entry.segments}
        for entry in entries()
    )
    lists = {"images": (entry.image for entry in entries()), "annotations": labels}
    write_json_lists(root / PANOPTIC_JSON, {"info": info, "categories": categories}, lists)
    return root / PANOPTIC_JSON


def instance_entry(mask: np.ndarray, category_id: int, score: float) -> dict[str, Any] | None:
    """COCO annotation of ``mask`` bool (H, W) without its ids, or None where it is empty."""
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    area = int(coco.area(code))
    if not area:
        return None
    return {
        "category_id": int(category_id),
        "segmentation": {"size": list(mask.shape), "counts": code["counts"].decode("ascii")},
        "area": area,
        "bbox": [round(float(value), 1) for value in coco.toBbox(code)],
        "iscrowd": 0,
        "score": round(float(score), 6),
    }


def decode_mask(segmentation: Mapping[str, Any]) -> np.ndarray:
    """Mask bool (H, W) of a run-length code, compressed or not.

    Raises:
        DataError: it is no run-length code.
    """
    from pycocotools import mask as coco

    try:
        height, width = (int(side) for side in segmentation["size"])
        counts = segmentation["counts"]
        if isinstance(counts, list):
            code = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        else:
            code = {"size": [height, width], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
        return coco.decode(code).astype(bool)
    except Exception as error:  # pycocotools raises what its C code happens to meet
        raise DataError(f"a segmentation is no run-length code: {type(error).__name__} {error}") from error


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, with or without a byte order mark.

    Raises:
        UsageError: there is no such file.
        DataError: it holds no JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} can't be read as JSON: {' '.join(str(error).split())[:200]}") from error


def read_json_object(path: str | Path) -> dict[str, Any]:
    """`read_json` of a file that holds an object.

    Raises:
        DataError: it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content


def read_ids(path: str | Path) -> np.ndarray:
    """Segment ids int32 (H, W) of a panoptic PNG, 0 for none.

    By kornia-rs where it is installed (some five times faster), else by Pillow.

    Raises:
        DataError: the file is missing, broken, or no RGB image.
    """
    reader = _fast_reader()
    rgb = reader(Path(path)) if reader is not None else None
    return decode_ids(_read_by_pillow(Path(path)) if rgb is None else rgb)


def decode_ids(rgb: np.ndarray) -> np.ndarray:
    """Segment ids int32 (H, W) of colours uint8 (H, W, 3)."""
    height, width, _ = rgb.shape
    flat = np.ascontiguousarray(rgb).reshape(-1)
    ids = np.empty(height * width, np.int32)
    # Four bytes from each pixel on, the last of them of the next pixel; the last pixel has no next one.
    overlapping = np.ndarray((height * width - 1,), "<i4", buffer=flat, strides=(3,))
    np.bitwise_and(overlapping, LARGEST_ID, out=ids[:-1])
    red, green, blue = flat[-3:].tolist()
    ids[-1] = red + 256 * green + 65536 * blue
    return ids.reshape(height, width)


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """Segment ids int (H, W) as the colours uint8 (H, W, 3) of a panoptic PNG."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


@cache
def _fast_reader() -> Callable[[Path], np.ndarray | None] | None:
    """Reads uint8 (H, W, 3), or None where Pillow shall say what is wrong; None if kornia-rs is not installed."""
    try:
        from kornia_rs.io import read_image_png_u8
    except ImportError:
        return None

    def read(path: Path) -> np.ndarray | None:
        try:
            rgb: np.ndarray = read_image_png_u8(str(path), "rgb")  # refuses all but eight bits of RGB
        except Exception:  # its errors have no common type
            return None
        return rgb

    return read


def _read_by_pillow(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode != "RGB":
                raise DataError(f"{path} is no panoptic PNG: its mode is {image.mode}, not RGB")
            return np.asarray(image)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}, which the JSON names") from error
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
