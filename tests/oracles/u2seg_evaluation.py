"""How the U2Seg paper's released evaluation matches clusters and scores the semantic map. Slow on purpose.

Written from the method (arXiv 2312.17243, section 4; FACTS of its released code), in loops over whole masks; shares no
code with the package. PQ and AP are no part of it: with the classes from here, panopticapi and pycocotools give them.

Things: clusters 0..K-1 and classes 0..C-1. Stuff: clusters 1..S and classes 1..T, 0 is "a thing" on both sides.
"""

from collections import Counter

import numpy as np


def box_iou(first, second):
    """IoU of two boxes x, y, width, height."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (first[2] * first[3] + second[2] * second[3] - width * height)


def most_voted(votes):
    """The label with most votes, of equals the smallest; None without votes."""
    counts = Counter(votes)
    return min(counts, key=lambda label: (-counts[label], label)) if counts else None


def thing_matching(photos, num_clusters, iou=0.7, score=0.6):
    """Class of each thing cluster, None for none.

    Args:
        photos: pairs of detections (cluster, score, box) and human things (class, box), crowds as any other.
    """
    votes = {cluster: [] for cluster in range(num_clusters)}
    for detections, humans in photos:
        for cluster, certainty, box in detections:
            for label, human in humans:
                if certainty >= score and box_iou(box, human) > iou:
                    votes[cluster].append(label)
    return [most_voted(votes[cluster]) for cluster in range(num_clusters)]


def stuff_matching(photos, num_clusters, iou=0.15):
    """Class of each stuff cluster 1..S, None for none; ``photos`` are pairs of maps: clusters, classes (-1 void)."""
    votes = {cluster: [] for cluster in range(1, num_clusters + 1)}
    for clusters, classes in photos:
        for cluster in sorted(set(clusters.ravel().tolist()) - {0}):
            for label in sorted(set(classes.ravel().tolist()) - {-1, 0}):
                found, human = clusters == cluster, classes == label
                if (found & human).sum() / (found | human).sum() > iou:
                    votes[cluster].append(label)
    return [most_voted(votes[cluster]) for cluster in range(1, num_clusters + 1)]


def semantic_figures(photos, matching, num_classes, in_place=False):
    """Pixel accuracy and mIoU, percent, over 0 (a thing) and the classes 1..T; pixels without a class don't count.

    Args:
        photos: pairs of maps as for `stuff_matching`.
        matching: what it gives.
        num_classes: T.
        in_place: rename cluster by cluster in the map itself, so that a later cluster's turn takes the pixels of an
            earlier one that was renamed to its number, as the released code does.
    """
    found, human = [], []
    for clusters, classes in photos:
        source, target = clusters.astype(int), clusters.astype(int)
        for cluster, label in enumerate(matching, start=1):
            looked_at = target if in_place else source
            target[looked_at == cluster] = num_classes + 1 if label is None else label
        found.append(target.ravel())
        human.append(classes.ravel())
    found, human = np.concatenate(found), np.concatenate(human)
    counted = (found <= num_classes) & (human >= 0)
    found, human = found[counted], human[counted]
    ious = [((found == c) & (human == c)).sum() / ((found == c) | (human == c)).sum() for c in np.unique(human)]
    return 100 * (found == human).mean(), 100 * np.mean(ious)
