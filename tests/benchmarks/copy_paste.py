"""Copy-paste in the mapper, beside pasting object by object on full-size masks: milliseconds of processor time.

Ours pastes a random subset of a photo's things at once, inside the frame that they come in. The literal way
(tests/oracles/copy_paste_literal.py) pastes them one by one and takes each from all masks. Both draw the same subset,
factor and place; photo, masks, classes and sem_seg must come out equal. Segments are numbered from 1 in each photo, as
in the datasets that tools/generate_pseudo.py writes.

    python tools/benchmark.py copy_paste
    python tools/benchmark.py copy_paste --gt panoptic.json --gt-dir panoptic --photos images     (real photos)
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from u2seg.panoptic import read_ids

HERE = Path(__file__).resolve().parent


def load(path):
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def synthetic_photos(folder, labels):
    """Photos of smooth noise for the labels of a panoptic JSON."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for photo in labels["images"]:
        small = rng.integers(0, 256, (photo["height"] // 16, photo["width"] // 16, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((photo["width"], photo["height"]), Image.Resampling.BICUBIC)
        image.save(folder / "photos" / photo["file_name"])
    return folder / "photos"


def renumber(png, segments, folder):
    """Write a panoptic PNG anew, with ids 1, 2, ... in the order of ``segments``; returns its path."""
    ids = read_ids(png)
    new = np.zeros((*ids.shape, 3), np.uint8)
    for number, segment in enumerate(segments, start=1):
        new[ids == segment["id"], 0] = number
    Image.fromarray(new).save(folder / png.name)
    return folder / png.name


def dataset(labels, gt_dir, photos, images, folder):
    """Dataset dicts with contiguous classes, as the package registers them; labels are written to ``folder``."""
    order = sorted(labels["categories"], key=lambda category: category["id"])
    things = {c["id"]: i for i, c in enumerate(c for c in order if c["isthing"])}
    stuff = {c["id"]: i + 1 for i, c in enumerate(c for c in order if not c["isthing"])}
    of_image = {photo["id"]: photo for photo in labels["images"]}
    dicts = []
    for annotation in labels["annotations"][:images]:
        photo = of_image[annotation["image_id"]]
        info = [
            {
                "id": number,
                "category_id": (things | stuff)[segment["category_id"]],
                "isthing": segment["category_id"] in things,
                "iscrowd": segment["iscrowd"],
            }
            for number, segment in enumerate(annotation["segments_info"], start=1)
        ]
        label = renumber(Path(gt_dir) / annotation["file_name"], annotation["segments_info"], folder)
        files = {"file_name": str(Path(photos) / photo["file_name"]), "pan_seg_file_name": str(label)}
        size = {"height": photo["height"], "width": photo["width"], "image_id": photo["id"]}
        dicts.append({**files, **size, "segments_info": info})
    return dicts


def timed(work, items):
    """Results, and milliseconds of processor time for each."""
    start = time.process_time()
    found = [work(*item) for item in items]
    return found, 1000 * (time.process_time() - start) / len(items)


def compare(dicts, size):
    """Times by name at one size (shortest side, pixels); raises if the two ways differ."""
    from detectron2.data import transforms as T  # noqa: N812

    from u2seg.data.augmentation import copy_paste
    from u2seg.data.mapper import U2SegDatasetMapper, to_arrays

    oracle = load(HERE.parent / "oracles" / "copy_paste_literal.py")
    chain = [T.ResizeShortestEdge(size, 10 * size), T.RandomFlip()]
    mapper = U2SegDatasetMapper(is_train=True, augmentations=chain, image_format="RGB", paste_probability=1.0)
    mapper(dicts[0])  # imports
    mapped, mapping = timed(mapper, [(each,) for each in dicts])
    samples = [to_arrays(each) for each in mapped]
    pairs = list(zip(samples, [*samples[1:], samples[0]], range(len(samples)), strict=True))

    def ours(target, source, seed):
        return copy_paste(target, source, np.random.default_rng(seed))

    def literal(target, source, seed):
        return oracle.copy_paste(vars(target), vars(source), np.random.default_rng(seed))

    fast, fast_ms = timed(ours, pairs)
    slow, slow_ms = timed(literal, pairs)
    _, mixing = timed(lambda: mapper.mix(mapped, np.random.default_rng(0)), [()])
    for found, expected in zip(fast, slow, strict=True):
        for name, values in expected.items():
            assert np.array_equal(getattr(found, name), values), name
    mixing /= len(dicts)
    things = sum(len(expected["masks"]) for expected in slow) / len(slow)
    return {"things": things, "map": mapping, "mix": mixing, "ours": fast_ms, "literal": slow_ms}


def main(argv=None):
    """Run the benchmark; an error if the labels differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20, help="photos (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[480, 800], help="shortest side (default: 480 800)")
    parser.add_argument("--gt", type=Path, help="real labels instead: COCO panoptic JSON")
    parser.add_argument("--gt-dir", type=Path, help="the PNGs of --gt")
    parser.add_argument("--photos", type=Path, help="the photos of --gt")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gt, gt_dir, photos = args.gt, args.gt_dir, args.photos
        if gt is None:
            gt, gt_dir = load(HERE / "evaluation.py").synthetic_truth(folder, args.images)
            photos = synthetic_photos(folder, json.loads(gt.read_bytes()))
        (folder / "labels").mkdir()
        dicts = dataset(json.loads(gt.read_bytes()), gt_dir, photos, args.images, folder / "labels")
        print(
            f"{len(dicts)} photos, each with some things of another pasted on; ms of processor time a photo, one thread"
        )
        for size in args.sizes:
            found = compare(dicts, size)
            share = found["mix"] / (found["map"] + found["mix"])
            print(f"shortest side {size} pixels, {found['things']:.1f} things after pasting; results equal")
            print(f"  ours {found['ours']:.1f}")
            print(
                f"  object by object on full-size masks {found['literal']:.1f}: {found['literal'] / found['ours']:.1f}x"
            )
            print(f"  a training sample: mapped in {found['map']:.1f}, mixed in {found['mix']:.1f}: {share:.0%} of it")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
