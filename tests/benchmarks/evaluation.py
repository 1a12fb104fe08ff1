"""Evaluation of a model, ours beside panopticapi + pycocotools: seconds of processor time, equality, memory.

Both sides get the same outputs in memory, as a model gives them: a panoptic map, its segments, overlapping detections.
The reference does what Detectron2's evaluators do: PNGs to a temporary folder, panopticapi on them, run-length codes by
pycocotools, its COCOeval for masks and boxes, a confusion matrix against semantic PNGs. It is given clusters that are
matched already (that matching comes from our run, not counted), so it is one policy, once, without chance control and
without the figures that need no classes. Ours does the same, and matches by itself; the rest of our report is timed
apart. Human things are given to pycocotools as run-length codes; ours makes them from the PNGs. Importing libraries,
drawing the outputs and preparing the semantic PNGs count on neither side.

    python tests/benchmarks/evaluation.py --images 5000 --clusters 800
    python tests/benchmarks/evaluation.py --gt panoptic.json --gt-dir panoptic      (real human labels, moved a little)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import resource
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HEIGHT, WIDTH = 480, 640
THINGS, STUFF = 80, 53


class Parts:
    """Processor seconds by name."""

    def __init__(self):
        self.seconds = defaultdict(float)

    @contextlib.contextmanager
    def timed(self, name):
        start = time.process_time()
        yield
        self.seconds[name] += time.process_time() - start


def write_png(path, ids):
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(path)


def synthetic_truth(folder, images, seed=0):
    """Human labels of random regions, about ten a photo, on disk; returns the JSON's path and the PNG folder."""
    rng = np.random.default_rng(seed)
    (folder / "gt").mkdir()
    grid_y, grid_x = np.mgrid[: HEIGHT // 8, : WIDTH // 8]
    photos, annotations = [], []
    for number in range(1, images + 1):
        points = rng.uniform(0, 1, (int(rng.integers(7, 14)), 2)) * grid_y.shape
        region = ((grid_y[..., None] - points[:, 0]) ** 2 + (grid_x[..., None] - points[:, 1]) ** 2).argmin(-1)
        region = region.repeat(8, 0).repeat(8, 1)
        stuff = rng.permutation(STUFF)
        ids, info = np.zeros((HEIGHT, WIDTH), np.int64), []
        for index in range(len(points)):
            if index == 0:
                continue  # void
            category = int(rng.integers(1, THINGS + 1)) if index % 3 else THINGS + 1 + int(stuff[index])
            own = region == index
            if own.any():
                ids[own] = index * 70001 % 256**3
                ys, xs = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
                box = [int(xs[0]), int(ys[0]), int(xs[-1] - xs[0]) + 1, int(ys[-1] - ys[0]) + 1]
                entry = {"id": index * 70001 % 256**3, "category_id": category, "area": int(own.sum()), "bbox": box}
                info.append({**entry, "iscrowd": 0})
        write_png(folder / "gt" / f"{number:06}.png", ids)
        photos.append({"id": number, "file_name": f"{number:06}.jpg", "height": HEIGHT, "width": WIDTH})
        annotations.append({"image_id": number, "file_name": f"{number:06}.png", "segments_info": info})
    categories = [
        {"id": i, "name": f"class {i}", "supercategory": "", "isthing": int(i <= THINGS)}
        for i in range(1, THINGS + STUFF + 1)
    ]
    content = {"images": photos, "annotations": annotations, "categories": categories}
    (folder / "gt.json").write_text(json.dumps(content))
    return folder / "gt.json", folder / "gt"


def model_output(ids, info, cluster_of, space, rng):
    """Human segments moved a little, as a panoptic map and detections (three more of each are weak and overlap)."""
    from detectron2.structures import BitMasks, Boxes, Instances

    painted, segments, masks, classes, scores = np.zeros(ids.shape, np.int32), [], [], [], []
    stuff = set()
    for segment in info:
        shift = tuple(rng.integers(-12, 13, 2))
        mask = np.roll(ids == segment.id, shift, (0, 1))
        kind, cluster = cluster_of(segment.category_id, rng)
        if kind == "stuff" and cluster in stuff:
            continue
        painted[mask] = number = len(segments) + 1
        if kind == "thing":
            score = float(np.float32(rng.random()))
            entry = {"isthing": True, "score": score, "instance_id": len(masks)}
            masks += [mask, np.roll(mask, 9, 0)]
            classes += [cluster, int(rng.integers(space.num_things))]
            scores += [score, score / 2]
        else:
            stuff.add(cluster)
            entry = {"isthing": False}
        segments.append({"id": number, "category_id": cluster, **entry})
    present = set(np.unique(painted).tolist())
    found = Instances(ids.shape)
    found.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, *ids.shape))
    found.pred_boxes = Boxes(BitMasks(found.pred_masks).get_bounding_boxes().tensor)
    found.pred_classes, found.scores = torch.tensor(classes, dtype=torch.int64), torch.tensor(scores)
    visible = [segment for segment in segments if segment["id"] in present]
    return {"panoptic_seg": (torch.from_numpy(painted), visible), "instances": found}


def cluster_table(gt, space):
    """Each class has its share of the clusters; a tenth of the segments get any."""
    order = {True: [c.id for c in gt.categories if c.isthing], False: [c.id for c in gt.categories if not c.isthing]}
    place = {category: (kind, index) for kind in order for index, category in enumerate(order[kind])}

    def cluster_of(category, rng):
        isthing, index = place[category]
        count, classes = (space.num_things, len(order[True])) if isthing else (space.num_stuff, len(order[False]))
        own = index % count + classes * int(rng.integers(max(count // classes, 1)))
        chosen = own if own < count and rng.random() < 0.9 else int(rng.integers(count))
        return ("thing", chosen) if isthing else ("stuff", chosen + 1)

    return cluster_of


class Reference:
    """What Detectron2's COCOPanopticEvaluator and COCOEvaluator do, on classes that are matched already."""

    def __init__(self, folder, gt, gt_json, gt_dir, taxonomy):
        self.gt, self.gt_json, self.gt_dir, self.taxonomy = gt, gt_json, gt_dir, taxonomy
        self.folder = folder / "pred"
        self.folder.mkdir()
        self.annotations, self.results = [], []
        self.class_of = self.taxonomy.class_of
        side = len(taxonomy) + 1  # one more on both sides: void of the truth, no class of the prediction
        self.confusion = np.zeros((side, side), np.int64)

    def count_pixels(self, label, merged, info, parts):
        """Add a photo to the confusion matrix; its semantic label is made as Detectron2's preparation script does."""
        none = len(self.taxonomy)
        ids, semantic = self.gt.read_ids(label), np.full(merged.shape, none, np.uint8)
        for segment in label.segments:
            semantic[ids == segment.id] = self.class_of[segment.category_id]
        Image.fromarray(semantic).save(self.folder.parent / "semantic.png")
        own = np.full(merged.shape, none, np.int64)
        for segment in info:
            own[merged == segment["id"]] = self.class_of[segment["category_id"]]
        with parts.timed("confusion matrix, one semantic PNG read"):
            truth = np.asarray(Image.open(self.folder.parent / "semantic.png")).astype(np.int64)
            flat = (none + 1) * own.reshape(-1) + truth.reshape(-1)
            self.confusion += np.bincount(flat, minlength=self.confusion.size).reshape(self.confusion.shape)

    def process(self, label, output, classes, of_detections, parts):
        from pycocotools import mask as coco_mask

        painted, segments = output["panoptic_seg"]
        ids = painted.numpy()
        merged, info, stuff = np.zeros_like(ids), [], {}
        for segment, category in zip(segments, classes, strict=True):
            if category is None:
                continue
            target = len(info) + 1
            if not segment["isthing"]:
                target = stuff.setdefault(category, target)
            merged[ids == segment["id"]] = target
            if target > len(info):
                info.append({"id": target, "category_id": category})
        with parts.timed("PNG writing"):
            write_png(self.folder / label.label, merged)
        self.annotations.append({"image_id": label.image_id, "file_name": label.label, "segments_info": info})
        self.count_pixels(label, merged, info, parts)
        found = output["instances"]
        with parts.timed("run-length codes"):
            masks = [
                coco_mask.encode(np.array(mask[:, :, None], order="F", dtype="uint8"))[0]
                for mask in found.pred_masks.numpy()
            ]
        boxes = found.pred_boxes.tensor.numpy().astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        for mask, box, score, category in zip(masks, boxes, found.scores.tolist(), of_detections, strict=True):
            if category is not None:
                entry = {"image_id": label.image_id, "category_id": category, "score": score, "bbox": box.tolist()}
                self.results.append({**entry, "segmentation": mask})

    def evaluate(self, truth, parts):
        from panopticapi.evaluation import pq_compute_single_core
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        content = json.loads(self.gt_json.read_bytes())
        known = {category["id"]: category for category in content["categories"]}
        own = {annotation["image_id"]: annotation for annotation in self.annotations}
        pairs = [(annotation, own[annotation["image_id"]]) for annotation in content["annotations"]]
        figures = {}
        with contextlib.redirect_stdout(io.StringIO()):
            with parts.timed("panopticapi"):
                counts = pq_compute_single_core(0, pairs, str(self.gt_dir), str(self.folder), known)
                for suffix, isthing in (("", None), ("_th", True), ("_st", False)):
                    figures[f"PQ{suffix}"] = 100 * counts.pq_average(known, isthing)[0]["pq"]
            with parts.timed("pycocotools, reading the human things"):
                gt = COCO()
                gt.dataset = json.loads(truth)
                gt.createIndex()
            for kind, name in (("segm", "AP_mask"), ("bbox", "AP_box")):
                with parts.timed(f"pycocotools {kind}"):
                    keys = ("image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation")
                    found = gt.loadRes([{key: entry[key] for key in keys} for entry in self.results])
                    evaluator = COCOeval(gt, found, kind)
                    evaluator.evaluate()
                    evaluator.accumulate()
                    evaluator.summarize()
                    figures[name] = 100 * evaluator.stats[0]
        right, count = np.diagonal(self.confusion)[:-1], self.confusion[:, :-1]
        true, guessed = count.sum(axis=0), count.sum(axis=1)[:-1]
        figures["pixel_accuracy"] = 100 * right.sum() / true.sum()
        present = true > 0
        figures["mIoU"] = 100 * (right[present] / (true + guessed - right)[present]).mean()
        return figures


def coco_truth(evaluator):
    """The human things as COCO instances, for pycocotools."""
    from pycocotools import mask as coco_mask

    from u2seg.panoptic.run_lengths import encode_segments

    annotations = []
    for photo in evaluator.gt.photos:
        things = [segment for segment in photo.segments if segment.isthing]
        codes = encode_segments(evaluator.gt.read_ids(photo), [segment.id for segment in things])
        for segment, code in zip(things, codes, strict=True):
            entry = {"category_id": segment.category_id, "iscrowd": int(segment.iscrowd), "image_id": photo.image_id}
            shape = {"area": int(coco_mask.area(code)), "bbox": coco_mask.toBbox(code).tolist()}
            code["counts"] = code["counts"].decode()
            annotations.append({**entry, **shape, "id": len(annotations) + 1, "segmentation": code})
    images = [{"id": photo.image_id, "height": photo.height, "width": photo.width} for photo in evaluator.gt.photos]
    return {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": index, "name": str(index)} for index in sorted({entry["category_id"] for entry in annotations})
        ],
    }


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(args, folder):
    """Time both sides; returns figures of both, parts of both, and peak memory of ours."""
    import scipy.optimize  # noqa: F401  imported while matching, else

    from u2seg.evaluation.detection import _library, default_backend
    from u2seg.evaluation.evaluator import HungarianPanopticEvaluator
    from u2seg.evaluation.fitting import Fit, score_policy
    from u2seg.evaluation.matching import Scoring
    from u2seg.evaluation.outputs import join_outputs
    from u2seg.structures import LabelSpace

    _library(default_backend())
    gt_json, gt_dir = (args.gt, args.gt_dir) if args.gt else synthetic_truth(folder, args.images)
    space = LabelSpace(args.clusters, args.stuff_clusters)

    def evaluator(policies, seeds):
        return HungarianPanopticEvaluator(
            name="benchmark",
            panoptic_json=str(gt_json),
            panoptic_root=str(gt_dir),
            space=space,
            scoring=Scoring(policies, stuff="category", seeds=seeds),
            distributed=False,
        )

    ours, theirs = Parts(), Parts()
    before = megabytes()
    with ours.timed("reading panoptic.json"):
        one = evaluator(["one_to_one"], 0)
    cluster_of = cluster_table(one.gt, space)

    def outputs():
        rng = np.random.default_rng(1)
        for label in one.gt.photos:
            yield label, model_output(one.gt.read_ids(label), label.segments, cluster_of, space, rng)

    for label, output in outputs():
        with ours.timed("tables and run-length codes, one GT PNG read"):
            one.process([{"image_id": label.image_id}], [output])
    held = megabytes() - before
    with ours.timed("match and score, one policy"):
        comparison = join_outputs(one._images, space, one.taxonomy, one.scoring)
        figures = score_policy(Fit(comparison), "one_to_one", 0)["figures"]
    everything = evaluator(["many_to_one", "one_to_one", "one_to_one_then_majority", "u2seg_paper"], 3)
    everything._images = one._images
    more = Parts()
    with more.timed("four policies, each with 3 runs of the chance control; masks without classes"):
        everything.evaluate()

    of_cluster = comparison.matched("one_to_one", comparison.cluster)
    category_of = {index: category for category, index in one.taxonomy.class_of.items()}
    truth = json.dumps(coco_truth(one))
    reference = Reference(folder, one.gt, gt_json, gt_dir, one.taxonomy)
    for label, output in outputs():
        segments = output["panoptic_seg"][1]
        first = [s["category_id"] if s["isthing"] else space.num_things + s["category_id"] - 1 for s in segments]
        classes = [category_of.get(int(of_cluster[c])) for c in first]
        of_detections = [category_of.get(int(of_cluster[c])) for c in output["instances"].pred_classes.tolist()]
        reference.process(label, output, classes, of_detections, theirs)
    expected = reference.evaluate(truth, theirs)
    return figures, expected, ours, theirs, more, held, len(one.gt.photos)


def show(title, parts, images):
    """One line for each part; returns the sum."""
    print(title)
    for name, seconds in parts.seconds.items():
        print(f"  {name:72} {seconds:8.2f} s {1000 * seconds / images:8.2f} ms an image")
    total = sum(parts.seconds.values())
    print(f"  {'sum':72} {total:8.2f} s {1000 * total / images:8.2f} ms an image")
    return total


def main(argv=None):
    """Run the benchmark; exit code 1 if the figures differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="synthetic photos (default: %(default)s)")
    parser.add_argument("--clusters", type=int, default=800, help="thing clusters (default: %(default)s)")
    parser.add_argument("--stuff-clusters", type=int, default=60, help="stuff clusters (default: %(default)s)")
    parser.add_argument("--gt", type=Path, help="real human labels instead: COCO panoptic JSON")
    parser.add_argument("--gt-dir", type=Path, help="the PNGs of --gt")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.getLogger("u2seg").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        figures, expected, ours, theirs, more, held, images = run(args, Path(folder))
    print(f"{images} photos, {args.clusters} + {args.stuff_clusters} clusters; processor seconds, one process")
    reference = show("panopticapi + pycocotools, one policy, clusters matched already:", theirs, images)
    own = show("ours, one policy, matching included:", ours, images)
    extra = show("ours, on top of that:", more, images)
    print(f"ratio, one policy once: {reference / own:.1f}")
    again = reference - theirs.seconds["run-length codes"]
    average_precision = sum(seconds for name, seconds in theirs.seconds.items() if name.startswith("pycocotools"))
    estimate = reference + 3 * again + 12 * (again - average_precision)  # the chance control has no AP
    print(
        f"ratio, the whole report (4 scorings, and 12 without AP; theirs but the codes): {estimate / (own + extra):.1f}"
    )
    print(f"memory held after the pass over the photos: {held:.0f} MiB more, {1024 * held / images:.1f} KiB an image")
    equal = all(np.isclose(figures[name], value, rtol=0, atol=1e-9) for name, value in expected.items())
    for name, value in expected.items():
        print(f"  {name:8} theirs {value:.12f}  ours {figures[name]:.12f}")
    print("equal to 1e-9" if equal else "NOT EQUAL")
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
