"""What has to be made again when something changes."""

import pytest

from u2seg.errors import UsageError
from u2seg.pseudo.ledger import FITTED_FILES, MADE_FROM, Ledger, made_from

SETTINGS = {product: {f"{product} key": 1} for product in MADE_FROM}


@pytest.fixture
def root(tmp_path):
    """An output directory in which everything was made once."""
    ledger = Ledger(tmp_path)
    ledger.begin(SETTINGS)
    ledger.commit(*MADE_FROM)
    for product in MADE_FROM:
        (tmp_path / "stages" / product).mkdir(parents=True)
    for file in FITTED_FILES.values():
        (tmp_path / file).touch()
    return tmp_path


def fingerprints(root, settings=SETTINGS, redo=None):
    ledger = Ledger(root)
    ledger.begin(settings, redo)
    return {product: ledger.fingerprint(product) for product in MADE_FROM}


@pytest.mark.parametrize(
    ("redo", "again"),
    [
        ("fit", {"fit", "stuff", "merge"}),
        ("masks", {"masks", "cluster", "merge"}),
        ("stuff", {"stuff", "merge"}),
        ("label", {"masks", "stuff", "cluster", "merge"}),
        ("cluster", {"cluster", "merge"}),
        ("fitted", {"fit", "stuff", "cluster", "merge"}),
        ("merge", {"merge"}),
    ],
)
def test_only_what_depends_on_it_is_made_again(root, redo, again):
    before = fingerprints(root)
    assert {product for product, value in fingerprints(root, redo=redo).items() if value != before[product]} == again
    assert fingerprints(root) == before  # nothing was noted before the first file


@pytest.mark.parametrize("product", MADE_FROM)
def test_other_settings_are_named_and_refused_unless_they_are_to_be_made_again(root, product):
    changed = {**SETTINGS, product: {f"{product} key": 2}}
    before = (root / "stages" / "ledger.json").read_bytes()
    with pytest.raises(UsageError, match=f"{product} key was 1 and is 2.*--redo {product}"):
        Ledger(root).begin(changed)
    assert (root / "stages" / "ledger.json").read_bytes() == before
    for redo in (name for name in MADE_FROM if product in made_from((name,))):
        Ledger(root).begin(changed, redo)


@pytest.mark.parametrize(
    ("products", "redo"),
    [
        (("masks", "stuff"), "label"),
        (("fit", "masks", "stuff"), "all"),
        (("fit", "stuff"), "fit"),
        (("fit", "cluster"), "fitted"),
    ],
)
def test_a_setting_of_several_products_names_what_covers_them(root, products, redo):
    changed = {**SETTINGS, **{product: {"threads": 2} for product in products}}
    with pytest.raises(UsageError, match=f"--redo {redo} "):
        Ledger(root).begin(changed)
    Ledger(root).begin(changed, redo)


@pytest.mark.parametrize("redo", ["fit", "cluster"])
def test_what_is_told_to_be_redone_covers_what_was_asked_for_too(root, redo):
    """Or else two messages would each name what the other one lacks."""
    changed = {**SETTINGS, "fit": {"reuse": "b"}, "cluster": {"reuse": "b"}}
    with pytest.raises(UsageError, match="--redo fitted "):
        Ledger(root).begin(changed, redo)
    Ledger(root).begin(changed, "fitted")


def test_a_stage_is_complete_for_its_photos_and_settings(root):
    ledger = Ledger(root)
    ledger.begin(SETTINGS)
    ledger.finish("label", "three photos", {"seconds": 1.0})
    again = Ledger(root)
    again.begin(SETTINGS)
    assert again.is_complete("label", "three photos")
    assert not again.is_complete("label", "four photos")
    assert not again.is_complete("merge", "three photos")
    again.contents["fit"] = "another fit"
    assert not again.is_complete("label", "three photos")


def test_what_was_learnt_anew_changes_what_is_made_from_it(root):
    ledger = Ledger(root)
    ledger.begin(SETTINGS)
    before = {product: ledger.fingerprint(product) for product in MADE_FROM}
    ledger.contents["fit"] = "other centres"
    assert {product for product in MADE_FROM if ledger.fingerprint(product) != before[product]} == {"stuff", "merge"}


def test_a_damaged_ledger_counts_as_none(root):
    (root / "stages" / "ledger.json").write_text("{")
    Ledger(root).begin({**SETTINGS, "masks": {"masks key": 2}})
