"""Every built-in refiner keeps the contract."""

import pytest

from u2seg.plugins import checks
from u2seg.pseudo.refine.densecrf import BilateralRefiner, DenseCRFRefiner
from u2seg.pseudo.refine.resize import Upsample


def densecrf(**args):
    pytest.importorskip("pydensecrf", reason="the extra crf is not installed")
    return DenseCRFRefiner(**args)


REFINERS = {
    "none": Upsample,
    "bilateral": BilateralRefiner,
    "bilateral-full": lambda: BilateralRefiner(scale=1.0, iterations=10),
    "densecrf": densecrf,
    "densecrf-half": lambda: densecrf(scale=0.5, iterations=5),
}


@pytest.mark.parametrize("name", REFINERS)
def test_contract(name):
    checks.check_refiner(REFINERS[name]())
    checks.check_refiner(REFINERS[name](), size=(37, 65))


@pytest.mark.parametrize("name", REFINERS)
def test_travels_to_a_worker(name):
    checks.check_picklable(REFINERS[name]())
