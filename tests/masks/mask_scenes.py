"""Features to cut: made-up scenes, and patches of photos."""

import numpy as np


def scene(seed, height=20, width=24, dim=24, blobs=3, noise=0.25):
    """Features float32 (dim, height, width) of a few blobs of different directions on one ground."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    label = np.zeros((height, width), int)
    for blob in range(1, blobs + 1):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(2.5, 6)
        label[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = blob
    directions = rng.normal(size=(blobs + 1, dim))
    grain = rng.normal(size=(height, width, dim)) * noise * rng.uniform(0.5, 3, (height, width, 1))
    return np.ascontiguousarray((directions[label] + grain).transpose(2, 0, 1), np.float32)


def patches(photo, grid=24, size=3):
    """Features float32 (D, grid, grid) of a photo uint8 (H, W, 3): centred mean colours of the parts of its patches."""
    rows, columns = (np.linspace(0, side, grid * size + 1).astype(int)[:-1] for side in photo.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(photo.astype(np.float64), rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff(np.append(rows, photo.shape[0])), np.diff(np.append(columns, photo.shape[1])))
    small = (sums / counts[:, :, None]).reshape(grid, size, grid, size, 3).transpose(0, 2, 1, 3, 4)
    nodes = small.reshape(grid, grid, -1)
    nodes -= nodes.mean(axis=(0, 1))
    return np.ascontiguousarray(nodes.transpose(2, 0, 1), np.float32)
