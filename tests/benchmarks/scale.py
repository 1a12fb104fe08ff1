"""The label factory on many made photos: processor time, memory of the main process, and files, as the set grows.

    python tools/benchmark.py scale --photos 1000 10000
    python tools/benchmark.py scale --photos 10000 --baseline CHECKOUT      (and another checkout beside it)

Photos are 16 x 24 noise and the parts next to nothing (colours as features, a quarter of the photo as the one mask), so
what is measured is all that the factory does beside its parts. Each set is labelled once, then again with nothing to
do, then again with one more photo. Times are processor time of the main process, which has two worker processes, and
of all of them ("whole command"); memory is the peak of the main process.
"""

from __future__ import annotations

import argparse
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

ROOT = Path(__file__).parents[2]
PROCESSES = runpy.run_path(str(Path(__file__).with_name("_processes.py")))
PARTS = """
import numpy as np
import u2seg

class Colours:
    dim, stride = 3, 4
    def extract(self, images):
        return [image[::4, ::4].transpose(2, 0, 1).astype(np.float32) / 255 for image in images]
    def embed(self, images):
        return np.array([image.mean(axis=(0, 1)) + 1 for image in images], np.float32).reshape(-1, 3)

class Quarters:
    def generate(self, image, features):
        mask = np.zeros((1, *features.shape[1:]), bool)
        mask[0, : features.shape[1] // 2, : features.shape[2] // 2] = True
        return u2seg.MaskSet(mask, np.float32([0.5]))

@u2seg.hookimpl
def u2seg_feature_extractors():
    return {"colours": Colours}

@u2seg.hookimpl
def u2seg_mask_generators():
    return {"quarters": Quarters}
"""
SETTINGS = {
    "FEATURES.NAME": "colours",
    "STUFF.FEATURES.NAME": "colours",
    "MASKS.NAME": "quarters",
    "REFINE.NAME": "none",
    "NUM_THINGS": "5",
    "NUM_STUFF": "5",
    "DEVICE": "cpu",
    "EXECUTOR.WORKERS": "2",
}


def parse(argv):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[1000, 10_000], help="sizes (default: %(default)s)")
    parser.add_argument("--baseline", type=Path, help="another checkout of this project, such as a git worktree")
    parser.add_argument("--run", nargs=2, metavar=("IMAGES", "OUTPUT"), help=argparse.SUPPRESS)  # by `run_apart`
    return parser.parse_args(argv)


def make_photos(folder, numbers):
    """Write a photo of noise for each of ``numbers``, 1,000 in a folder."""
    for number in numbers:
        path = folder / f"{number // 1000:04}" / f"{number:07}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, compress_level=1)


def install_parts(site):
    """Install `PARTS` into the folder ``site`` as pip would."""
    info = site / "scale_parts-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "scale_parts.py").write_text(PARTS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scale-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[u2seg]\nscale_parts = scale_parts\n")


def run_here(images, output):
    """Label ``images`` and print of each stage its name, processor seconds and this process's peak of memory (MB)."""
    from u2seg.config import fill, get_pseudo_cfg
    from u2seg.images import find_photos
    from u2seg.pseudo.pipeline import U2SegGenerator
    from u2seg.pseudo.run import LabelRun

    def report(stage, work):
        started = time.process_time()
        work()
        print(stage, time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

    perform, finish = LabelRun.perform, LabelRun.finish
    LabelRun.perform = lambda self, stage, work: report(stage, lambda: perform(self, stage, work))
    LabelRun.finish = lambda self, *args: report("finish", lambda: finish(self, *args))
    report("imports", lambda: __import__("sklearn.cluster"))
    cfg = get_pseudo_cfg()
    fill(cfg, options=[word for key, value in SETTINGS.items() for word in (f"U2SEG.{key}", value)])
    sets = []
    report("find", lambda: sets.append(find_photos(images)))
    U2SegGenerator(cfg, sets[0], output).run()


def run_apart(checkout, site, images, output):
    """Run `run_here` with the u2seg of ``checkout`` in a process of its own: by stage, seconds and MB; in all, too."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), str(site)])}
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), "scale", "--run", str(images), str(output)]
    before = PROCESSES["processor_seconds"]()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    seconds = PROCESSES["processor_seconds"]() - before
    rows = [line.split() for line in done.stdout.splitlines()]
    stages = {stage: (float(spent), int(memory)) for stage, spent, memory in rows}
    return {**stages, "whole command": (seconds, max(memory for _, memory in stages.values()))}


def count_files(output):
    """Number of inodes and of names in ``output``."""
    inodes = [path.stat().st_ino for path in output.rglob("*") if path.is_file()]
    return len(set(inodes)), len(inodes)


def measure(checkout, count, folder):
    """Columns of the table by stage: first run, nothing to do, one photo more."""
    site, images, output = folder / "site", folder / "photos", folder / "out"
    install_parts(site)
    make_photos(images, range(count))
    columns = [run_apart(checkout, site, images, output)]
    inodes, names = count_files(output)
    columns.append(run_apart(checkout, site, images, output))
    make_photos(images, [count])
    columns.append(run_apart(checkout, site, images, output))
    print(f"\n{count} photos, {checkout}: {inodes / count:.2f} files and {names / count:.2f} names a photo")
    return columns


def main(argv=None):
    """Run the benchmark."""
    args = parse(argv)
    if args.run:
        run_here(*args.run)
        return
    PROCESSES["adopt_orphans"]()
    for count in args.photos:
        for checkout in [ROOT, *([args.baseline.resolve()] if args.baseline else [])]:
            with tempfile.TemporaryDirectory() as folder:
                columns = measure(checkout, count, Path(folder))
            rows = [
                [stage, *(f"{1000 * column[stage][0] / count:.3f} ms, {column[stage][1]} MB" for column in columns)]
                for stage in columns[0]
            ]
            print(tabulate(rows, headers=["a photo; peak", "first run", "nothing to do", "one photo more"]))


if __name__ == "__main__":
    main()
