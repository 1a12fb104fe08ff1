#!/usr/bin/env python
"""Run one of the benchmarks of tests/benchmarks: ours beside a slow, obvious reference."""

import argparse
import runpy
import sys
from pathlib import Path

from u2seg.runtime import run_tool

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "benchmarks"


def main() -> int | None:
    """Run the benchmark by its file, since it and its oracles are no part of the package, and hand it the rest."""
    names = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=names)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the benchmark; its --help lists them")
    args = parser.parse_args()
    return runpy.run_path(str(FOLDER / f"{args.name}.py"))["main"](args.options)


if __name__ == "__main__":
    sys.exit(run_tool(main))
