"""MaskCut as its paper words it: dense matrices, an exact solver, one image at a time. Slow on purpose.

Written from Wang et al., "Cut and learn" (CVPR 2023), section 3.2, and TokenCut (CVPR 2022), section 3; shares no code
with the package. Cases that the papers leave open are decided as ``docs/research/masks.md`` says.

Shapes: ``h, w`` feature grid, n = h * w; ``H, W`` pixels; ``D`` channels; ``N`` masks.
"""

import numpy as np
import scipy.linalg


def affinity(features, painted, tau, eps):
    """W float64 (n, n): 1 where the cosine of masked features exceeds tau, else eps."""
    nodes = features.reshape(len(features), -1).T.astype(np.float32)
    nodes = nodes / np.maximum(np.linalg.norm(nodes, axis=1, keepdims=True), 1e-12)
    nodes = nodes * (1 - painted.ravel()[:, None])
    W = (nodes @ nodes.T > tau).astype(np.float64)
    return np.where(W == 0, eps, W)


def second_eigenvector(W):
    """x float64 (n,) and lambda of (D - W) x = lambda D x, the second smallest."""
    D = np.diag(W.sum(axis=1))
    values, vectors = scipy.linalg.eigh(D - W, D, subset_by_index=[1, 1])
    return vectors[:, 0], values[0]


def flood(inside, seed):
    """The 4-connected part of ``inside`` bool (h, w) that holds ``seed``."""
    part, todo = np.zeros_like(inside), [seed]
    while todo:
        row, column = todo.pop()
        if not (0 <= row < inside.shape[0] and 0 <= column < inside.shape[1]):
            continue
        if part[row, column] or not inside[row, column]:
            continue
        part[row, column] = True
        todo += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    return part


def first_peak(values, allowed):
    """Row and column of the first allowed value within a thousandth of the largest."""
    top = max(values[place] for place in zip(*np.nonzero(allowed), strict=True))
    for place in zip(*np.nonzero(allowed), strict=True):
        if values[place] >= top - 1e-3 * abs(top):
            return tuple(int(index) for index in place)
    raise AssertionError("a peak exists")


def one_cut(features, painted, tau, eps, max_corners, keep_painted):
    """The mask of one round, bool (h, w), or None where the graph has nothing to cut."""
    h, w = painted.shape
    W, free = affinity(features, painted, tau, eps), ~painted
    there = np.full(h * w, True) if keep_painted else free.ravel()
    x = np.zeros(h * w)
    x[there], value = second_eigenvector(W[there][:, there])
    if 1 - value <= 1e-2:
        return None
    x = x.reshape(h, w)
    above = free & (x > x[free].mean())
    below = free & ~above
    seed = first_peak(abs(x), free)
    side, other = (above, below) if above[seed] else (below, above)
    corners = [side[0, 0], side[0, w - 1], side[h - 1, 0], side[h - 1, w - 1]]
    if sum(corners) > max_corners and other.any():
        side = other
        seed = first_peak(x if side is above else -x, side)
    return flood(side, seed)


def maskcut(features, tau=0.15, eps=1e-5, num_masks=3, min_area=0.01, max_corners=2, keep_painted=False):
    """Masks bool (N, h, w) of features (D, h, w).

    To the letter of the paper painted nodes stay in the graph (``keep_painted``); ``docs/research/masks.md``:
    why ours leave.
    """
    painted = np.zeros(features.shape[1:], bool)
    masks = []
    for _ in range(num_masks):
        if painted.sum() > painted.size - 2:
            break
        mask = one_cut(features, painted, tau, eps, max_corners, keep_painted)
        if mask is None or (masks and mask.mean() <= min_area):
            break
        masks.append(mask)
        painted = painted | mask
    return np.array(masks, bool).reshape(-1, *painted.shape)


def iou(first, second):
    """Intersection over union of two bool arrays of one shape; 1 for two empty ones."""
    union = (first | second).sum()
    return 1.0 if union == 0 else float((first & second).sum() / union)


def upsample(mask, height, width):
    """Nearest cell of a mask bool (h, w) for every pixel, bool (H, W)."""
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    return mask[rows][:, columns]


def dense_crf(image, mask, iterations=10):
    """``mask`` bool (H, W) sharpened on image uint8 (H, W, 3) by a dense CRF with the constants of CutLER's paper."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_labels

    height, width = mask.shape
    unary = unary_from_labels(mask.astype(np.int32), 2, gt_prob=0.7, zero_unsure=False)
    field = dcrf.DenseCRF2D(width, height, 2)
    field.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    field.addPairwiseGaussian(sxy=3, compat=7)
    field.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.array(image, order="C"), compat=10)
    return np.argmax(field.inference(iterations), axis=0).reshape(height, width).astype(bool)


def refine(image, masks, min_iou=0.5, iterations=10):
    """Masks on pixels, bool (M, H, W): each sharpened, and kept if the CRF left at least ``min_iou`` of it."""
    kept = []
    for mask in masks:
        coarse = upsample(mask, *image.shape[:2])
        fine = dense_crf(image, coarse, iterations)
        if fine.any() and iou(coarse, fine) >= min_iou:
            kept.append(fine)
    return np.array(kept, bool).reshape(-1, *image.shape[:2])
