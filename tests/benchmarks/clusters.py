"""Clusters of millions of masks: seconds and memory of the sample, of learning from it, and of naming every mask.

    python tools/benchmark.py clusters --masks 1000000
    python tools/benchmark.py clusters --masks 10000000 --channels 768 --clusters 300

Vectors are made from a seed, a thousand at a time, whenever one of their records is read, so that nothing is on disk:
noise about 1,000 directions. The sample is drawn by the factory's own `sample_masks`, and masks get their cluster a
record at a time, as on a worker.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import time

import numpy as np
from tabulate import tabulate

from u2seg.pseudo.clusters import KMeans, unit_length
from u2seg.pseudo.intermediate import read_arrays
from u2seg.pseudo.learning import sample_masks

PER_RECORD, DIRECTIONS = 1000, 1000


def parse(argv):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=1_000_000, help="in all (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=768, help="of a vector (default: %(default)s)")
    parser.add_argument("--clusters", type=int, default=300, help="K (default: %(default)s)")
    return parser.parse_args(argv)


class MadeRecords:
    """In place of `u2seg.pseudo.intermediate.Intermediate`: a record for each key, made when it is read."""

    def __init__(self, channels):
        self.directions = np.random.default_rng(0).standard_normal((DIRECTIONS, channels), np.float32)

    @contextlib.contextmanager
    def reading(self, key):
        """The content of an ``.npz`` with `PER_RECORD` masks."""
        rng = np.random.default_rng(int(key) + 1)
        noise = 4 * rng.random((PER_RECORD, self.directions.shape[1]), np.float32) - 2
        vectors = unit_length(self.directions[rng.integers(0, DIRECTIONS, PER_RECORD)] + noise)
        content = io.BytesIO()
        means = np.zeros((PER_RECORD, 0), np.float32)
        scores = rng.random(PER_RECORD, np.float32)
        np.savez(content, vectors=vectors, scores=scores, embedded=np.arange(PER_RECORD), means=means)
        yield content.getvalue()


def main(argv=None):
    """Run the benchmark."""
    args = parse(argv)
    records, keys = MadeRecords(args.channels), [str(number) for number in range(args.masks // PER_RECORD)]
    clusterer, rows = KMeans(n_clusters=args.clusters), []

    def timed(what, work):
        started, processor = time.perf_counter(), time.process_time()
        result = work()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        rows.append([what, time.perf_counter() - started, time.process_time() - processor, memory])
        return result

    def assign():
        sizes = np.zeros(args.clusters, np.int64)
        for key in keys:
            vectors = read_arrays(records, key, "vectors")["vectors"]
            sizes += np.bincount(clusterer.predict(vectors), minlength=args.clusters)
        return sizes

    sample = timed("draw the sample", lambda: sample_masks(records, keys, args.clusters, 0.0, seed=0))
    timed("learn the clusters", lambda: clusterer.fit(sample.vectors))
    sizes = timed("name every mask", assign)
    print(
        f"{len(keys) * PER_RECORD} masks of {args.channels} channels, learnt from {len(sample.vectors)}; "
        f"K = {args.clusters}, of {sizes.min()} to {sizes.max()} masks"
    )
    print(tabulate(rows, headers=["", "seconds", "processor s", "peak GB"], floatfmt=".2f"))


if __name__ == "__main__":
    main()
