"""What reading, evaluating, training on and looking at a large set cost: wall and processor seconds, and memory.

    python tools/benchmark.py large_sets --photos 1000 10000 100000
    python tools/benchmark.py large_sets --photos 1000 --checkout CHECKOUT     (another one, such as a git worktree)

The set is made up: photos of 64 x 48 pixels with 8 segments each, files that are hard links of a few, whole masks in
``instances.json``. So what counts is what a photo costs beside its pixels. Each stage is a process of its own. Memory
is that of all its processes together, each shared page once (Pss), sampled ten times a second: the peak, and what is
left when the last sample was taken; the loader keeps its batches coming until then.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from tabulate import tabulate

ROOT = Path(__file__).parents[2]
PROCESSES = runpy.run_path(str(Path(__file__).with_name("_processes.py")))
HEIGHT, WIDTH, KINDS = 48, 64, 16
THINGS, STUFF = 80, 27
READ = "import sys; from u2seg.panoptic import read_panoptic; dataset = read_panoptic(sys.argv[1])"
EARLIER = """
import sys
from u2seg.engine.earlier_labels import EarlierLabels
earlier = EarlierLabels(sys.argv[1])
label = getattr(earlier, "label", None) or earlier.labels.get  # of checkouts that held them all
for photo in earlier.photo_set().photos:
    label(photo.id)
"""
FIGURES = """
import sys
from pathlib import Path
from u2seg.evaluation.labels import LabelPaths, evaluate_labels
from u2seg.evaluation.matching import Scoring
from u2seg.panoptic import PanopticDataset
read_ids, maps = PanopticDataset.read_ids, {}
def read_once(dataset, photo):
    kind = int(Path(photo.label).stem) % int(sys.argv[2])
    if kind not in maps:
        maps[kind] = read_ids(dataset, photo)
    return maps[kind]
PanopticDataset.read_ids = read_once
root = Path(sys.argv[1])
evaluate_labels(LabelPaths(root, root / "gt.json", root / "panoptic"), Scoring(seeds=1), workers=1)
"""
LOADER = """
import itertools, sys, time
from u2seg.data.datasets import register_datasets, set_class_counts
from u2seg.data.loader import build_train_loader
from u2seg.engine.config import load_config
cfg = load_config(sys.argv[2], ["DATASETS.TRAIN", f"('{sys.argv[1]}',)", "MODEL.DEVICE", "cpu", *sys.argv[3:]])
register_datasets(cfg)
set_class_counts(cfg)
for _ in itertools.islice(build_train_loader(cfg), 50):
    pass
time.sleep(1)
"""
PAGES = """
import sys
from u2seg.report import gallery, pictures
def record(painter, task):
    marks = [[a.category_id, 0.5, 0.5, 0.1, a.score, True] for a in task.annotations]
    masks = [(a.category_id, a.score, 0.1) for a in task.annotations]
    return pictures.Record(task.number, "", [], dict.fromkeys(pictures.VIEWS, marks), masks, void=0.0)
pictures.Painter.__call__ = record
gallery.write_gallery(sys.argv[1], sys.argv[2], workers=1)
"""
TINY = ROOT / "configs" / "quick_schedules" / "u2seg_R18_instant_test.yaml"
FOUR_WORKERS = ["DATALOADER.NUM_WORKERS", "4", "OUTPUT_DIR", "{out}"]
STAGES = {
    "nothing": ["-c", "import time, u2seg.panoptic; time.sleep(1)"],
    "read": ["-c", READ, "{set}"],
    "labels of the round before": ["-c", EARLIER, "{set}"],
    "evaluate": [
        *("{checkout}/tools/evaluate_pseudo.py", "--pseudo", "{set}"),
        *("--gt", "{set}/gt.json", "--gt-dir", "{set}/panoptic"),
    ],
    "evaluate, each PNG read once": ["-c", FIGURES, "{set}", str(KINDS)],
    "loader": ["-c", LOADER, "{set}", str(TINY), *FOUR_WORKERS],
    "loader, whole masks": ["-c", LOADER, "{set}", str(TINY), "INPUT.THINGS", "instances", *FOUR_WORKERS],
    "gallery without pictures": ["-c", PAGES, "{set}", "{out}/pages"],
    "gallery": ["{checkout}/tools/visualize_pseudo.py", "{set}", "--output", "{out}/gallery"],
    "gallery again": ["{checkout}/tools/visualize_pseudo.py", "{set}", "--output", "{out}/gallery"],
}
"""Name to the arguments of a Python process."""


def parse(argv):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[100, 1000], help="default: %(default)s")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="default: all")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="another checkout of this project")
    parser.add_argument("--folder", type=Path, help="where sets are made, and kept for another call")
    return parser.parse_args(argv)


def label(rng):
    """Segment ids (H, W) of three things on five stripes of stuff, and how many segments have a pixel: all 8."""
    ids = np.arange(HEIGHT)[:, None] * 5 // HEIGHT + 4 + np.zeros((1, WIDTH), np.int64)
    for number in range(1, 4):
        y, x = rng.integers(0, HEIGHT - 12), 20 * number - 18 + rng.integers(0, 6)
        ids[y : y + 12, x : x + 12] = number
    return ids


def make_set(root, photos):
    """Write a dataset of ``photos`` with ``gt.json``, human labels of the same masks."""
    rng = np.random.default_rng(0)
    categories = [{"id": i, "name": str(i), "supercategory": f"s{i % 15}", "isthing": int(i <= THINGS)}
                  for i in range(1, THINGS + STUFF + 1)]  # fmt: skip
    (root / "kinds").mkdir(parents=True)
    codes, areas = [], []
    for kind in range(KINDS):
        ids = label(rng)
        Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)).save(root / "kinds" / f"{kind}.jpg")
        colours = np.stack([ids, 0 * ids, 0 * ids], -1).astype(np.uint8)
        Image.fromarray(colours).save(root / "kinds" / f"{kind}.png")
        masks = [np.asfortranarray(ids == number, np.uint8) for number in range(1, 9)]
        codes.append([{"size": [HEIGHT, WIDTH], "counts": coco.encode(mask)["counts"].decode()} for mask in masks])
        areas.append([int(mask.sum()) for mask in masks])
    lists = {name: [] for name in ("images", "annotations", "truth", "instances")}
    for number in range(photos):
        folder, kind = f"{number // 1000:04}", number % KINDS
        for place, ending in (("images", "jpg"), ("panoptic", "png")):
            (root / place / folder).mkdir(parents=True, exist_ok=True)
            os.link(root / "kinds" / f"{kind}.{ending}", root / place / folder / f"{number:07}.{ending}")
        image = {"id": number + 1, "file_name": f"{folder}/{number:07}.jpg", "height": HEIGHT, "width": WIDTH}
        lists["images"].append(image)
        for name in ("annotations", "truth"):
            chosen = [*rng.integers(1, THINGS + 1, 3).tolist(), *rng.permutation(STUFF)[:5] + THINGS + 1]
            segments = [{"id": i, "category_id": int(category), "isthing": int(i < 4), "area": areas[kind][i - 1],
                         "bbox": [0, 0, 1, 1], "iscrowd": 0, "score": round(rng.random(), 6)}
                        for i, category in enumerate(chosen, start=1)]  # fmt: skip
            entry = {"image_id": number + 1, "file_name": f"{folder}/{number:07}.png", "segments_info": segments}
            lists[name].append(entry)
        for code, area in zip(codes[kind], areas[kind], strict=True):
            mask = {"segmentation": code, "area": area, "score": round(rng.random(), 6), "iscrowd": 0}
            numbers = {"id": len(lists["instances"]) + 1, "image_id": number + 1}
            lists["instances"].append({**numbers, "category_id": int(rng.integers(1, THINGS + 1)), **mask})
    for file, name in (("panoptic", "annotations"), ("gt", "truth"), ("instances", "instances")):
        content = {"info": {}, "categories": categories, "images": lists["images"], "annotations": lists[name]}
        (root / f"{file}.json").write_text(json.dumps(content))


def descendants(process):
    """``process`` and all below it."""
    found = [process]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += children.read_text().split()
            except OSError:  # it has ended
                continue
    return found


def memory(process):
    """MB of ``process`` and all below it, each page once."""
    total = 0
    for number in descendants(process):
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1000


def measure(arguments, checkout):
    """Run Python with ``arguments``: wall and processor seconds, MB at the peak and at last."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    before, started = PROCESSES["processor_seconds"](), time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        running = subprocess.Popen(
            [sys.executable, *arguments], env=environment, cwd=checkout, stdout=subprocess.DEVNULL, stderr=errors
        )
        samples = [0.0]
        while running.poll() is None:
            samples.append(memory(running.pid) or samples[-1])
            time.sleep(0.1)
        wall = time.perf_counter() - started
        if running.returncode:
            errors.seek(0)
            raise SystemExit(f"{arguments} ended with {running.returncode}:\n{errors.read().decode()[-2000:]}")
    return (
        round(wall, 1),
        round(PROCESSES["processor_seconds"]() - before, 1),
        round(max(samples)),
        round(samples[-2] if len(samples) > 2 else samples[-1]),
    )


def main(argv=None):
    """Run the benchmark."""
    args = parse(argv)
    PROCESSES["adopt_orphans"]()
    headers = ["photos", "stage", "wall s", "processor s", "MB at the peak", "MB at last"]
    with tempfile.TemporaryDirectory() as scratch:
        folder, rows = args.folder or Path(scratch), []
        for photos in args.photos:
            root = folder / f"set_{photos}"
            if not (root / "instances.json").is_file():
                make_set(root, photos)
            for stage in args.stages:
                names = {"{set}": root, "{out}": f"{scratch}/{photos}", "{checkout}": args.checkout}
                arguments = [functools.reduce(lambda a, b: a.replace(*map(str, b)), names.items(), word)
                             for word in STAGES[stage]]  # fmt: skip
                rows.append([photos, stage, *measure(arguments, args.checkout)])
                print(*rows[-1], sep="\t", flush=True)
    print(tabulate(rows, headers, "github"))
