"""Parts that keep their contracts, for tests to break one rule at a time."""

import numpy as np

from u2seg import MaskSet


class Extractor:
    dim, stride = 3, 4

    def extract(self, images):
        return [np.ascontiguousarray(image[::4, ::4].transpose(2, 0, 1), np.float32) / 255 for image in images]


class Generator:
    def generate(self, image, features):
        mask = np.zeros((1, *features.shape[1:]), bool)
        mask[0, : features.shape[1] // 2] = True
        return MaskSet(mask, np.ones(1, np.float32))


class Refiner:
    def refine(self, image, scores):
        sides = zip(image.shape[:2], scores.shape[1:], strict=True)
        rows, columns = (np.arange(side) * small // side for side, small in sides)
        return np.ascontiguousarray(scores[:, rows][:, :, columns])


class Clusterer:
    """Like HDBSCAN: no centres, and clusters that may stay empty."""

    n_clusters = 5

    def fit(self, X):
        return self

    def predict(self, X):
        return (X[:, 0] > 0).astype(np.int64)

    def state(self):
        return {}

    def load_state(self, state):
        return self


class Segmenter:
    num_classes = 3

    def fit(self, features):
        self.mean = np.mean([grid.mean() for grid in features], dtype=np.float32)
        return self

    def segment(self, image, features):
        return np.full((3, *features.shape[1:]), 0.25, np.float32)

    def state(self):
        return {"mean": np.array(self.mean)}

    def load_state(self, state):
        self.mean = state["mean"]
        return self


GOOD = {
    "feature extractor": Extractor,
    "mask generator": Generator,
    "refiner": Refiner,
    "clusterer": Clusterer,
    "stuff segmenter": Segmenter,
}


def broken(base, **members):
    """``base`` with ``members`` in place of its own; None takes one away."""
    return type(base.__name__, (base,), members)()


def _spoil(method, change):
    """``method`` whose result ``change`` turns into something else."""
    return lambda self, *args: change(method(self, *args))


def _nan(array):
    array = array.copy()
    array.flat[0] = np.nan
    return array


def _writes(method):
    def wrapped(self, *args):
        result = method(self, *args)
        (args[1] if len(args) > 1 else args[0][0])[...] = 1
        return result

    return wrapped


FORM = {
    "features of a wrong dtype": (Extractor, "extract", lambda f: [a.astype(np.float64) for a in f], "float64"),
    "features of a wrong dim": (
        Extractor,
        "extract",
        lambda f: [a[:2] for a in f],
        "float32 (3, h, w), not",
    ),
    "features without channels": (Extractor, "extract", lambda f: [a[0] for a in f], "float32 (3, h, w)"),
    "one array for all": (Extractor, "extract", lambda f: f[0], "a list of"),
    "too few features": (Extractor, "extract", lambda f: f[1:], "a list of"),
    "masks as an array": (Generator, "generate", lambda m: m.masks, "u2seg.MaskSet, not bool"),
    "no masks": (Generator, "generate", lambda m: None, "u2seg.MaskSet, not NoneType"),
    "refined to another size": (Refiner, "refine", lambda r: r[:, 1:], "refined scores are float32 (2, "),
    "refined to float64": (Refiner, "refine", lambda r: r.astype(float), "not float64"),
    "refined to a channel less": (Refiner, "refine", lambda r: r[:1], "refined scores"),
    "ids as int32": (Clusterer, "predict", lambda ids: ids.astype(np.int32), "int64"),
    "too few ids": (Clusterer, "predict", lambda ids: ids[1:], "int64"),
    "fit gives nothing": (Clusterer, "fit", lambda self: None, "the part itself"),
    "a state of lists": (Segmenter, "state", lambda state: {"mean": [1.0]}, "dict of arrays"),
    "too few classes": (Segmenter, "segment", lambda p: p[:2], "float32 (3, h, w)"),
    "probabilities as float64": (Segmenter, "segment", lambda p: p.astype(float), "not float64"),
    "labels of the grid": (Segmenter, "segment", lambda p: p[0].astype(np.uint8), "labels are uint8 ("),
}
"""What no photo is the cause of: class, method, what becomes of its result, and words of the rule."""
VALUES = {
    "features that are NaN": (Extractor, "extract", lambda f: [_nan(a) for a in f], "NaN"),
    "refined to NaN": (Refiner, "refine", _nan, "NaN"),
    "ids beyond K": (Clusterer, "predict", lambda ids: ids + 4, "cluster ids lie in [0, 5)"),
    "noise as -1": (Clusterer, "predict", lambda ids: ids - 1, "cluster ids lie in [0, 5)"),
    "NaN as probabilities": (Segmenter, "segment", _nan, "NaN"),
    "negative probabilities": (Segmenter, "segment", lambda p: p - 0.3, "[0, 1], not [-0.05"),
    "logits": (Segmenter, "segment", lambda p: p * 40 - 2, "[0, 1], not [8"),
}
"""What a photo may be the cause of."""
CHANGES = {
    "changes images": (Extractor, "extract"),
    "changes features": (Generator, "generate"),
    "changes scores": (Refiner, "refine"),
    "changes the features of stuff": (Segmenter, "segment"),
}
MEMBERS = {
    "no generate": (Generator, {"generate": None}, "Generator has no method generate(image, features)"),
    "generate with one argument": (Generator, {"generate": lambda self, image: None}, "can't be called as generate("),
    "no dim": (type("NoDim", (), {"stride": 4, "extract": Extractor.extract}), {}, "no attribute dim"),
    "embed without images": (Extractor, {"embed": lambda self: None}, "can't be called as embed(images)"),
    "no state": (Clusterer, {"state": None}, "Clusterer has no method state()"),
    "refine_many of scores alone": (Refiner, {"refine_many": lambda self, many: None}, "refine_many(image, many)"),
}


def spoiled(case):
    """The part of one of `FORM` or `VALUES`, and the words of its rule."""
    base, method, change, words = {**FORM, **VALUES}[case]
    return broken(base, **{method: _spoil(getattr(base, method), change)}), words


def changing(case):
    base, method = CHANGES[case]
    return broken(base, **{method: _writes(getattr(base, method))})


def kind_of(part):
    return next((kind for kind, base in GOOD.items() if isinstance(part, base)), "feature extractor")
