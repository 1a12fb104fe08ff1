"""The whole label factory: seconds a photo by part, ours beside the literal method and beside another checkout.

    python tools/benchmark.py labels --images DIR                          (all of RUNS)
    python tools/benchmark.py labels --images DIR --baseline CHECKOUT      (and the shipped configs of another checkout)
    python tools/benchmark.py labels --images DIR --gt panoptic.json --gt-dir panoptic      (and how good they are)

Each run is a process of its own, as a user starts it, into a new directory. Processor seconds are those of all its
workers, so other programs change them little; wall seconds depend on the cores that are free. "literal, fast" is the
literal method, its masks and its grid, with our quick parts: half precision and the CRF in torch at half size.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).parents[2]
RUNS = {
    "quickstart": ("quickstart", []),
    "literal": ("literal", []),
    "literal, fast": ("literal", ["U2SEG.FEATURES.ARGS.vit.precision", "auto", "U2SEG.REFINE.NAME", "bilateral"]),
}
"""Name of a run to its config and settings; another checkout runs those without settings."""
PROCESSES = runpy.run_path(str(Path(__file__).with_name("_processes.py")))


def parse(argv):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder of photos")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="default: %(default)s")
    parser.add_argument("--baseline", type=Path, help="another checkout of this project, such as a git worktree")
    parser.add_argument("--gt", help="human panoptic JSON, to score the labels with tools/evaluate_pseudo.py")
    parser.add_argument("--gt-dir", help="its PNGs")
    parser.add_argument("--things", default="80", help="K (default: %(default)s)")
    parser.add_argument("--stuff", default="27", help="S (default: %(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="settings for every run")
    return parser.parse_args(argv)


def run_tool(checkout, tool, *arguments):
    """Run a tool of ``checkout``: wall seconds and processor seconds of it and its workers."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, str(checkout / "tools" / tool), *map(str, arguments)]
    before, started = PROCESSES["processor_seconds"](), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=checkout, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    wall = time.perf_counter() - started
    return wall, PROCESSES["processor_seconds"]() - before


def measure(checkout, config, settings, args, output):
    """A row of the table: seconds a photo of one run, in all and by part."""
    command = ["--config-file", checkout / "configs" / "pseudo" / f"{config}.yaml", "--output", output]
    counts = ["U2SEG.NUM_THINGS", args.things, "U2SEG.NUM_STUFF", args.stuff]
    images = ["--images", Path(args.images).resolve()]
    wall, processor = run_tool(checkout, "generate_pseudo.py", *command, *images, *counts, *settings, *args.opts)
    run = json.loads((output / "run.json").read_text())
    photos = run["photos"]["labelled"]
    row = {"photos": photos, "wall s": wall / photos, "processor s": processor / photos}
    for stage, notes in run["timings"].items():
        for part, seconds in notes.get("processor", notes["parts"]).items():  # older versions noted wall seconds alone
            if (stage, part) != ("cluster", "masks"):  # a count, in older versions
                row[f"{stage}: {part}"] = seconds / photos
    return row


def quality(checkout, args, output):
    """Figures of the labels in ``output``: class-agnostic masks, and PQ with names matched on other photos."""
    report = output / "scores.json"
    gt = ["--gt", Path(args.gt).resolve(), "--gt-dir", Path(args.gt_dir).resolve()]
    run_tool(checkout, "evaluate_pseudo.py", "--pseudo", output, *gt, "--folds", 2, "--json", report)
    scores = json.loads(report.read_text())
    masks = scores["class_agnostic"]["mask"]
    transferred = next(
        policy["figures"]
        for policy in scores["policies"]
        if policy["policy"] == "many_to_one" and "that are scored" not in policy["fitted_on"]
    )
    return {key: masks[key] for key in ("AR@100", "recall50")} | {
        key: transferred[key] for key in ("PQ", "PQ_th", "PQ_st")
    }


def main(argv=None):
    """Run the benchmark."""
    args = parse(argv)
    PROCESSES["adopt_orphans"]()
    checkouts = {"ours": ROOT, **({"baseline": args.baseline.resolve()} if args.baseline else {})}
    columns = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in args.runs:
            config, settings = RUNS[run]
            for name, checkout in checkouts.items():
                if settings and name == "baseline":
                    continue
                title = f"{run}, {name}" if len(checkouts) > 1 else run
                print(f"running {title} ...", file=sys.stderr)
                output = Path(folder) / title.replace(", ", "-")
                columns[title] = measure(checkout, config, settings, args, output)
                if args.gt:
                    columns[title] |= quality(checkout, args, output)
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    table = [[row, *(column.get(row) for column in columns.values())] for row in rows]
    print(tabulate(table, headers=["seconds a photo", *columns], floatfmt=".3f"))
    for slow in columns:
        ratios = [
            f"{columns[slow]['processor s'] / column['processor s']:.2f} {name}" for name, column in columns.items()
        ]
        print(f"processor seconds of {slow}, over those of: {'; '.join(ratios)}")


if __name__ == "__main__":
    main()
