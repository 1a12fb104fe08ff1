"""The rules that what a part gives must keep, call by call: cheap enough to be checked on every photo.

Shapes: as in `u2seg.plugins.contracts`.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from u2seg.plugins.api import PARTS
from u2seg.structures import STUFF_VOID, MaskSet

ROUNDING = 1e-4
"""By which a probability may leave [0, 1]."""


class BrokenRuleError(AssertionError):
    """A part does not keep its contract: wrong types, shapes or dtypes, which no photo is the cause of."""


class BadValuesError(BrokenRuleError):
    """A part gave values that are out of range or no numbers, as it may do for one photo and not for another."""


def require(truth: bool, rule: str, kind: type[BrokenRuleError] = BrokenRuleError) -> None:
    """Raise an error of ``kind`` with ``rule`` unless ``truth``."""
    if not truth:
        raise kind(rule)


def check_members(kind: str, part: Any) -> None:
    """Raise BrokenRuleError unless ``part`` has what the contract of its ``kind`` names, callable with its arguments.

    What is optional is looked at too, where ``part`` has it.
    """
    spec = PARTS[kind]
    owner = type(part).__name__
    for contract in (spec.contract, *spec.optional):
        for name, member in vars(contract).items():
            if not inspect.isfunction(member) or name.startswith("_"):
                continue
            method: Any = getattr(part, name, None)
            arguments = list(inspect.signature(member).parameters)[1:]
            text = f"{name}({', '.join(arguments)})"
            if method is None and contract in spec.optional:
                continue
            require(callable(method), f"{owner} has no method {text}")
            require(_takes(method, len(arguments)), f"{owner}.{name} can't be called as {text}")
    for name in spec.contract.__annotations__:
        # the class first: a property may need weights that have not been fetched yet
        known = hasattr(type(part), name) or name in getattr(part, "__dict__", {}) or hasattr(part, name)
        require(known, f"{owner} has no attribute {name}")


def _takes(method: Callable[..., Any], count: int) -> bool:
    """Whether ``method`` can be called with ``count`` arguments by position, as far as can be told."""
    try:
        inspect.signature(method).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a method in C has no signature
        return True
    return True


def _check_array(value: Any, what: str, dtype: DTypeLike, shape: Sequence[int | str]) -> None:
    """Raise unless ``value`` is an array of finite numbers; a letter in ``shape`` is any length above 0."""
    is_array = isinstance(value, np.ndarray)
    fits = is_array and value.dtype == dtype and value.ndim == len(shape)
    sides = zip(value.shape, shape, strict=True) if fits else ()
    fits = fits and all(side > 0 if isinstance(expected, str) else side == expected for side, expected in sides)
    actual = f"{value.dtype} {value.shape}" if is_array else type(value).__name__
    require(fits, f"{what} {np.dtype(dtype)} ({', '.join(map(str, shape))}), not {actual}")
    # the sum is quicker, and finite only if all are
    finite = np.isfinite(value.sum()) or np.isfinite(value).all()
    require(bool(finite), f"{what} finite, and some are NaN or infinite", BadValuesError)


def _check_list(result: Any, expected: Sequence[Any], what: str) -> None:
    same = isinstance(result, (list, tuple)) and len(result) == len(expected)
    count = len(result) if hasattr(result, "__len__") else "no"
    require(same, f"{what} for each image: a list of {len(expected)}, not {type(result).__name__} of {count} items")


def check_features(part: Any, result: Any, images: Sequence[np.ndarray]) -> None:
    """What `FeatureExtractor.extract` gives."""
    _check_list(result, images, "extract gives one array")
    for array in result:
        _check_array(array, "features are", np.float32, (part.dim, "h", "w"))


def check_shared_features(part: Any, result: Any, images: Sequence[np.ndarray], others: Sequence[Any]) -> None:
    """What `SharesPass.extract_with` gives."""
    require(len(result) == 1 + len(others), "extract_with gives a list for the extractor itself and for each other")
    for owner, arrays in zip((part, *others), result, strict=True):
        check_features(owner, arrays, images)


def check_embeddings(part: Any, result: Any, images: Sequence[np.ndarray]) -> None:
    """What `Embeds.embed` gives."""
    _check_array(result, "embed gives", np.float32, (len(images), "E"))


def check_masks(part: Any, result: Any, image: np.ndarray, features: np.ndarray) -> None:
    """What `MaskGenerator.generate` gives; a `MaskSet` has checked itself."""
    kind = result.dtype if isinstance(result, np.ndarray) else type(result).__name__
    require(isinstance(result, MaskSet), f"generate gives a u2seg.MaskSet, not {kind}")
    require(0 not in result.masks.shape[1:], f"masks lie on a grid, not on {result.masks.shape[1:]}")


def check_mask_batch(part: Any, result: Any, images: Sequence[np.ndarray], features: Sequence[np.ndarray]) -> None:
    """What `GeneratesBatch.generate_batch` gives."""
    _check_list(result, images, "generate_batch gives one MaskSet")
    for masks, image, grid in zip(result, images, features, strict=True):
        check_masks(part, masks, image, grid)


def check_refined(part: Any, result: Any, image: np.ndarray, scores: Sized) -> None:
    """What `Refiner.refine` gives."""
    _check_array(result, "refined scores are", np.float32, (len(scores), *image.shape[:2]))


def check_stuff(part: Any, result: Any, image: np.ndarray, features: np.ndarray) -> None:
    """What `StuffSegmenter.segment` gives."""
    count = part.num_classes
    if isinstance(result, np.ndarray) and result.dtype == np.uint8:
        _check_array(result, "labels are", np.uint8, image.shape[:2])
        known = bool(((result == STUFF_VOID) | (result < count)).all())
        require(known, f"labels lie in [0, {count}) or are {STUFF_VOID}", BadValuesError)
        return
    _check_array(result, f"stuff is labels uint8 {image.shape[:2]}, or probabilities", np.float32, (count, "h", "w"))
    low, high = float(result.min()), float(result.max())
    inside = low >= -ROUNDING and high <= 1 + ROUNDING
    require(inside, f"probabilities lie in [0, 1], not [{low:.3g}, {high:.3g}]", BadValuesError)


def check_self(part: Any, result: Any, *_: Any) -> None:
    """What ``fit`` and ``load_state`` give."""
    require(result is part, f"fit and load_state give the part itself, not {type(result).__name__}")


def check_ids(part: Any, result: Any, X: np.ndarray) -> None:
    """What `Clusterer.predict` gives."""
    _check_array(result, "predict gives", np.int64, (len(X),))
    inside = not len(result) or (result.min() >= 0 and result.max() < part.n_clusters)
    require(bool(inside), f"cluster ids lie in [0, {part.n_clusters})", BadValuesError)


def check_state(part: Any, result: Any) -> None:
    """What ``state`` gives."""
    arrays = isinstance(result, Mapping) and all(isinstance(value, np.ndarray) for value in result.values())
    require(arrays, "state gives a dict of arrays")


def _rule_of_type(kinds: type | tuple[type, ...], rule: str) -> Callable[..., None]:
    """The rule of a method whose result is of ``kinds``, whatever it was asked."""

    def check(part: Any, result: Any, *_: Any) -> None:
        require(isinstance(result, kinds), f"{rule}, not {type(result).__name__}")

    return check


RULES: dict[str, Callable[..., None]] = {
    "extract": check_features,
    "extract_with": check_shared_features,
    "shares_pass": _rule_of_type((bool, np.bool_), "shares_pass gives a bool"),
    "embed": check_embeddings,
    "prepare": _rule_of_type(Mapping, "prepare gives a dict for the record"),
    "generate": check_masks,
    "generate_batch": check_mask_batch,
    "refine": check_refined,
    "fit": check_self,
    "predict": check_ids,
    "segment": check_stuff,
    "state": check_state,
    "load_state": check_self,
}
"""Method to the rule that its result must keep: called with the part, the result, and the method's arguments."""


def call_checked(part: Any, name: str, *args: Any, look_at_inputs: bool = True) -> Any:
    """What ``part``'s method ``name`` gives for ``args``.

    Raises:
        BrokenRuleError: it breaks a rule, or has changed an array that it was given (if these are looked at).
    """
    before = [(array, _checksum(array)) for array in _arrays(args)] if look_at_inputs else []
    result = getattr(part, name)(*args)
    RULES[name](part, result, *args)
    same = all(_checksum(array) == checksum for array, checksum in before)
    require(same, f"{name} changes what it is given; work on a copy")
    return result


def refine_many_checked(part: Any, image: np.ndarray, many: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """As `call_checked` of ``refine_many``, one result at a time."""
    lengths: list[int] = []

    def noted() -> Iterator[np.ndarray]:
        for scores in many:
            lengths.append(len(scores))
            yield scores

    stream, count = noted(), 0
    for refined in part.refine_many(image, stream):
        require(count < len(lengths), "refine_many gives a result for each scores, in order")
        check_refined(part, refined, image, range(lengths[count]))
        count += 1
        yield refined
    complete = count == len(lengths) and next(stream, None) is None
    require(complete, "refine_many gives a result for each scores, and some are missing")


def _arrays(values: Iterable[Any]) -> Iterator[np.ndarray]:
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _arrays(value)


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)
