"""A picture of which cluster went where: rows are clusters, columns classes, dark where they share much.

Shapes: ``L`` clusters; ``C`` classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from u2seg.evaluation.comparison import Comparison
from u2seg.evaluation.tables import VOID
from u2seg.files import in_words, replacing

MOST_NAMES = 100
"""More rows than this get no names."""


def draw_clusters(comparison: Comparison, policy: str, path: Path) -> None:
    """Write a PNG of the counts behind ``policy``, each cluster's as shares of its own sum, sorted by its class.

    Args:
        comparison: a set labelled twice.
        policy: its matching gives the order of the rows, and a mark in each.
        path: the file to write.
    """
    from matplotlib.figure import Figure

    counts = comparison.counts(policy, comparison.cluster)
    of_cluster = comparison.matched(policy, comparison.cluster)
    figure = Figure(figsize=(16, 10), layout="constrained")
    figure.suptitle(f"Clusters by class: share of what {policy} counts; rings mark the class that it gives")
    for axis, kind, title in zip(figure.subplots(1, 2), (True, False), ("thing", "stuff"), strict=True):
        rows = np.flatnonzero((comparison.cluster_isthing == kind) & (counts.sum(axis=1) > 0))
        columns = np.flatnonzero((comparison.taxonomy.isthing == kind) & (counts.sum(axis=0) > 0))
        rows = rows[np.lexsort((-counts[rows].max(axis=1, initial=0), of_cluster[rows]))]
        unseen = int((comparison.cluster_isthing == kind).sum()) - len(rows)
        axis.set_title(f"{len(rows)} {title} clusters" + (f" ({unseen} overlap nothing)" if unseen else ""))
        if not len(rows):
            axis.set_axis_off()
            continue
        shares = counts[np.ix_(rows, columns)] / counts[rows].sum(axis=1, keepdims=True)
        axis.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        matched = np.flatnonzero(of_cluster[rows] != VOID)
        place = np.searchsorted(columns, of_cluster[rows[matched]])
        axis.scatter(place, matched, s=10, facecolors="none", edgecolors="tab:red", linewidths=0.6)
        axis.set_xticks(range(len(columns)), [comparison.taxonomy.names[c] for c in columns], rotation=90, fontsize=6)
        named = rows[: len(rows) if len(rows) <= MOST_NAMES else 0]
        axis.set_yticks(range(len(named)), comparison.cluster_ids[named].tolist(), fontsize=6)
        axis.set_ylabel("category_id of the cluster")
    with in_words(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
