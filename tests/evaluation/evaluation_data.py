"""Small labelled sets made of random regions, and the slow, obvious ways to relabel and to count them."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

THINGS = {1: ("dog", "animal"), 2: ("cat", "animal"), 5: ("car", "vehicle"), 9: ("bus", "vehicle")}
STUFF = {90: ("grass", "ground"), 95: ("sand", "ground"), 97: ("sky", "sky"), 120: ("wall", "wall")}


def categories(things=THINGS, stuff=STUFF):
    return [
        {"id": index, "name": name, "supercategory": above, "isthing": int(table is things)}
        for table in (things, stuff)
        for index, (name, above) in table.items()
    ]


def cluster_categories(num_things, num_stuff):
    return [
        {"id": i, "name": f"cluster_{i}", "supercategory": "", "isthing": int(i <= num_things)}
        for i in range(1, num_things + num_stuff + 1)
    ]


@dataclass
class Labels:
    """A panoptic set in memory: for each photo a map of ids and its segments_info."""

    categories: list
    maps: list = field(default_factory=list)
    infos: list = field(default_factory=list)
    names: list = field(default_factory=list)

    def add(self, ids, info, name=None):
        self.names.append(name or f"photo {len(self.maps):03}.jpg")
        self.maps.append(ids.astype(np.int64))
        self.infos.append([complete(ids, segment) for segment in info])

    def write(self, json_file: Path, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number, (ids, info, name) in enumerate(zip(self.maps, self.infos, self.names, strict=True), start=1):
            images.append({"id": number, "file_name": name, "width": ids.shape[1], "height": ids.shape[0]})
            png = f"{Path(name).stem}.png"
            write_png(folder / png, ids)
            annotations.append({"image_id": number, "file_name": png, "segments_info": info})
        content = {"info": {}, "images": images, "annotations": annotations, "categories": self.categories}
        json_file.write_text(json.dumps(content))
        return json_file, folder


def write_png(path, ids):
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    Image.fromarray(rgb.astype(np.uint8)).save(path, compress_level=1)


def complete(ids, segment):
    """Add area and box, counted from the map."""
    ys, xs = np.nonzero(ids == segment["id"])
    box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1] if len(xs) else [0, 0, 0, 0]
    return {"iscrowd": 0, **segment, "area": len(xs), "bbox": box}


def regions(rng, height, width, count):
    """int (H, W): each pixel the nearest of ``count`` random points, 0..count-1."""
    y, x = np.mgrid[:height, :width]
    points = rng.uniform(0, 1, (count, 2)) * (height, width)
    return ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(axis=-1)


def random_truth(rng, photos=6, crowd=0.15, void=0.15, height=30, width=40):
    """Ground truth with void, crowds, and ids far apart; each stuff category once a photo at most."""
    kinds = {entry["id"]: entry["isthing"] for entry in categories()}
    labels = Labels(categories())
    for _ in range(photos):
        areas = regions(rng, height, width, int(rng.integers(3, 9)))
        ids, info, used = np.zeros((height, width), np.int64), [], {}
        for region in range(areas.max() + 1):
            category = int(rng.choice(list(kinds)))
            if rng.random() < void:
                continue
            is_crowd = bool(kinds[category] and rng.random() < crowd)
            new = int(rng.integers(1, 256**3))
            if not kinds[category] or is_crowd:
                key = (category, is_crowd)
                if key in used:
                    ids[areas == region] = used[key]
                    continue
                used[key] = new
            ids[areas == region] = new
            info.append({"id": new, "category_id": category, "iscrowd": int(is_crowd)})
        labels.add(ids, [s for s in info if (ids == s["id"]).any()])
    return labels


def random_pseudo(rng, truth, num_things=5, num_stuff=4, shift=3):
    """Pseudo labels: human segments moved a little, some dropped or of the other kind, clusters drawn at random."""
    labels = Labels(cluster_categories(num_things, num_stuff))
    kinds = {entry["id"]: entry["isthing"] for entry in truth.categories}
    for ids, info, name in zip(truth.maps, truth.infos, truth.names, strict=True):
        painted, found = np.zeros_like(ids), []
        for segment in rng.permutation(np.array(info, object)).tolist():
            if rng.random() < 0.15:
                continue
            mask = np.roll(ids == segment["id"], rng.integers(-shift, shift + 1, 2), (0, 1))
            isthing = kinds[segment["category_id"]] ^ (rng.random() < 0.1)
            first, count = (1, num_things) if isthing else (num_things + 1, num_stuff)
            painted[mask] = len(found) + 1
            cluster = int(rng.integers(first, first + count))
            found.append({"id": len(found) + 1, "category_id": cluster, "score": round(float(rng.random()), 2)})
        labels.add(painted, [s for s in found if (painted == s["id"]).any()], name)
    return labels


def relabelled(labels, class_of, things, class_categories, merge=True):
    """Obvious oracle: give each segment the class of its category (None: void), merge stuff of one class in a photo.

    Without ``merge``, stuff segments of one class stay what they are.
    """
    result = Labels(class_categories)
    for ids, info, name in zip(labels.maps, labels.infos, labels.names, strict=True):
        new, found, stuff = np.zeros_like(ids), [], {}
        for segment in info:
            label = class_of[segment["category_id"]]
            if label is None:
                continue
            target = len(found) + 1
            if merge and label not in things:
                target = stuff.setdefault(label, target)
            new[ids == segment["id"]] = target
            if target > len(found):
                found.append({"id": target, "category_id": label, "iscrowd": segment["iscrowd"]})
        result.add(new, found, name)
    return result


def permuted(truth, rng):
    """Pseudo labels equal to the ground truth, crowds included, with things and stuff renumbered at random."""
    things = [entry["id"] for entry in truth.categories if entry["isthing"]]
    stuff = [entry["id"] for entry in truth.categories if not entry["isthing"]]
    new = dict(zip(things, (rng.permutation(len(things)) + 1).tolist(), strict=True))
    new |= dict(zip(stuff, (rng.permutation(len(stuff)) + 1 + len(things)).tolist(), strict=True))
    labels = Labels(cluster_categories(len(things), len(stuff)))
    for ids, info, name in zip(truth.maps, truth.infos, truth.names, strict=True):
        painted = np.zeros_like(ids)
        for number, segment in enumerate(info, start=1):
            painted[ids == segment["id"]] = number
        found = [{"id": n, "category_id": new[s["category_id"]], "score": 1.0} for n, s in enumerate(info, start=1)]
        labels.add(painted, found, name)
    return labels


def write_pseudo(labels, folder, instances=False):
    """A directory as tools/generate_pseudo.py writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    labels.write(folder / "panoptic.json", folder / "panoptic")
    if instances:
        from pycocotools import mask as coco_mask

        things = {entry["id"] for entry in labels.categories if entry["isthing"]}
        found = []
        for number, (ids, info) in enumerate(zip(labels.maps, labels.infos, strict=True), start=1):
            for segment in info:
                if segment["category_id"] in things:
                    code = coco_mask.encode(np.asfortranarray(ids == segment["id"]).astype(np.uint8))
                    code["counts"] = code["counts"].decode()
                    keep = {key: segment[key] for key in ("category_id", "area", "bbox", "score")}
                    found.append({"id": len(found) + 1, "image_id": number, "segmentation": code, **keep})
        content = json.loads((folder / "panoptic.json").read_text())
        (folder / "instances.json").write_text(json.dumps({**content, "annotations": found}))
    return folder


def infos(labels):
    """The segments of each photo as the package holds them."""
    from u2seg.panoptic import SegmentInfo

    kinds = {entry["id"]: bool(entry["isthing"]) for entry in labels.categories}
    for info in labels.infos:
        yield [
            SegmentInfo(s["id"], s["category_id"], kinds[s["category_id"]], bool(s["iscrowd"]), s.get("score", 1.0))
            for s in info
        ]


def compare(truth, pseudo, things="category", stuff="supercategory"):
    """A Comparison straight from memory."""
    from u2seg.evaluation.comparison import Comparison
    from u2seg.evaluation.matching import Scoring, Taxonomy
    from u2seg.evaluation.tables import Table, compare_maps
    from u2seg.panoptic import Category, PanopticDataset

    sets = []
    for labels in (truth, pseudo):
        ordered = sorted(labels.categories, key=lambda entry: entry["id"])
        known = (Category(e["id"], e["name"], e["supercategory"], bool(e["isthing"]), (0, 0, 0)) for e in ordered)
        sets.append(PanopticDataset(Path("memory"), Path(), Path(), tuple(known), ()))
    gt, guess = sets
    columns = (truth.maps, pseudo.maps, infos(truth), infos(pseudo))
    table = Table.join([compare_maps(*photo) for photo in zip(*columns, strict=True)])
    clusters = np.array([category.id for category in (*guess.things, *guess.stuff)])
    return Comparison(table, Taxonomy.of(gt, things, stuff), clusters, len(guess.things), Scoring())


def fit_itself(comparison):
    """A matching fitted on the photos that it scores."""
    from u2seg.evaluation.fitting import Fit

    return Fit(comparison)
