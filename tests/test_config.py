"""Settings from YAML and command line, and what is said when they are wrong."""

import pytest

from u2seg.config import fill, get_pseudo_cfg, part_args
from u2seg.errors import UsageError


def test_options_fill_known_keys_and_make_new_ones_under_args():
    cfg = get_pseudo_cfg()
    tau = ["U2SEG.MASKS.ARGS.maskcut.tau", "0.3"]
    theirs = ["U2SEG.MASKS.ARGS.theirs.deep.er", "[1, 2]", "U2SEG.MASKS.NAME", "theirs"]
    fill(cfg, options=[*tau, *theirs, "U2SEG.NUM_THINGS", "12", "U2SEG.MERGE.MIN_AREA", "1e-3"])
    assert cfg.U2SEG.NUM_THINGS == 12
    assert cfg.U2SEG.MERGE.MIN_AREA == 1e-3
    assert part_args(cfg.U2SEG.MASKS) == {"deep": {"er": [1, 2]}}
    assert cfg.U2SEG.MASKS.ARGS.maskcut.tau == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["U2SEG.NUM_THNGS", "3"], r"no config key 'U2SEG.NUM_THNGS' .*Did you mean 'NUM_THINGS'\?"),
        (["U2SEG.MASK.NAME", "x"], r"Did you mean 'MASKS'\?"),
        (["U2SEG.NUM_THINGS", "many"], "must be int .*not 'many'"),
        (["U2SEG.NUM_THINGS", "3.5"], "must be int"),
        (["U2SEG.NUM_THINGS", "true"], "must be int"),
        (["U2SEG.NUM_THINGS"], "has no value"),
        (["U2SEG.MASKS", "maskcut"], "group of keys"),
        (["U2SEG.NUM_THINGS.K", "1"], "has no keys below"),
        (["MODEL.MASK_ON", "True"], "no config key"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        fill(get_pseudo_cfg(), options=options)
    assert "\n" not in str(caught.value)


def test_a_yaml_stands_on_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text("U2SEG: {NUM_STUFF: 5, MASKS: {ARGS: {maskcut: {tau: 0.2, num_masks: 4}}}}")
    (tmp_path / "leaf.yaml").write_text("_BASE_: base.yaml\nU2SEG: {MASKS: {ARGS: {maskcut: {tau: 0.6}}}}")
    cfg = get_pseudo_cfg()
    fill(cfg, str(tmp_path / "leaf.yaml"))
    assert cfg.U2SEG.NUM_STUFF == 5
    assert part_args(cfg.U2SEG.MASKS) == {"tau": 0.6, "num_masks": 4}


@pytest.mark.parametrize("text", ["U2SEG: {NUM_THNGS: 1}", "U2SEG: {NUM_THINGS: [1]}", "U2SEG: [", "just words"])
def test_a_wrong_yaml_is_one_clear_line(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"a\.yaml") as caught:
        fill(get_pseudo_cfg(), str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="does not exist"):
        fill(get_pseudo_cfg(), str(tmp_path / "none.yaml"))
