"""Settings from YAML and command line, and what is said when they are wrong."""

import pytest

from u2seg.config import check_bounds, fill, get_pseudo_cfg, part_args
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


@pytest.mark.parametrize("text", ["2024-01-05", "0012", "12:30", "1e-8", "yes", "null", "[a]", "~/out: 1"])
def test_a_string_stays_a_string_where_one_is_wanted(tmp_path, text):
    cfg = get_pseudo_cfg()
    fill(cfg, options=["U2SEG.CLUSTERS.REUSE", text])
    assert text == cfg.U2SEG.CLUSTERS.REUSE
    (tmp_path / "a.yaml").write_text(f'U2SEG: {{CLUSTERS: {{REUSE: "{text}"}}}}')
    cfg = get_pseudo_cfg()
    fill(cfg, str(tmp_path / "a.yaml"))
    assert text == cfg.U2SEG.CLUSTERS.REUSE


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-8", 1e-8),
        ("1e-5", 1e-5),
        ("-.5", -0.5),
        ("3", 3),
        ("true", True),
        ("null", None),
        ("[1, 2e3, x]", [1, 2000.0, "x"]),
        ("(1, 2)", (1, 2)),
        ("'3'", "3"),
        ("2024-01-05", "2024-01-05"),
        ("0012", "0012"),
        ("12:30", "12:30"),
        ("yes", "yes"),
        ("1_000", "1_000"),
        ("x.pth", "x.pth"),
    ],
)
def test_free_values_follow_yaml_1_2(tmp_path, text, value):
    cfg = get_pseudo_cfg()
    fill(cfg, options=["U2SEG.MASKS.ARGS.maskcut.eps", text])
    assert part_args(cfg.U2SEG.MASKS) == {"eps": value}
    assert type(part_args(cfg.U2SEG.MASKS)["eps"]) in (type(value), str if isinstance(value, str) else type(value))
    (tmp_path / "a.yaml").write_text(f"U2SEG: {{MASKS: {{ARGS: {{maskcut: {{eps: {text}}}}}}}}}")
    if "," not in text:
        cfg = get_pseudo_cfg()
        fill(cfg, str(tmp_path / "a.yaml"))
        assert part_args(cfg.U2SEG.MASKS) == {"eps": value}


def test_both_tools_fill_configs_by_the_same_rules():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from u2seg.engine.config import load_config

    options = ["U2SEG.FEATURES.ARGS.vit.weights", "x.pth", "U2SEG.CLUSTERS.REUSE", "2024-01-05"]
    label, train = get_pseudo_cfg(), load_config(options=options)
    fill(label, options=options)
    assert part_args(label.U2SEG.FEATURES) == part_args(train.U2SEG.FEATURES) == {"weights": "x.pth"}
    assert label.U2SEG.CLUSTERS.REUSE == train.U2SEG.CLUSTERS.REUSE == "2024-01-05"
    assert load_config(options=["DATASETS.TRAIN", "2024_11"]).DATASETS.TRAIN == ("2024_11",)
    assert load_config(options=["DATASETS.TRAIN", "('a', 'b')"]).DATASETS.TRAIN == ("a", "b")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.yaml": "_BASE_: b.yaml", "b.yaml": "_BASE_: a.yaml"}, "leads back"),
        ({"a.yaml": "_BASE_: http://example.org/b.yaml"}, "is a URL"),
        ({"a.yaml": "_BASE_: gone.yaml"}, "does not exist"),
        ({"a.yaml": "_BASE_: [{}, 3]"}, "names another YAML"),
        ({"a.yaml": "U2SEG: &x {MASKS: {ARGS: {maskcut: *x}}}"}, "nested more than"),
        ({"a.yaml": "a: !!python/object/apply:os.system [true]"}, "can't be read as YAML"),
    ],
)
def test_hostile_files_are_one_clear_line(tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        fill(get_pseudo_cfg(), str(tmp_path / "a.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("SEED", -1), ("SEED", 2**32), ("MERGE.MIN_SCORE", ".nan"), ("MERGE.MIN_AREA", "1.5"), ("NUM_STUFF", 255)],
)
def test_bounds(key, value):
    cfg = get_pseudo_cfg()
    fill(cfg, options=[f"U2SEG.{key}", str(value)])
    with pytest.raises(UsageError, match=f"U2SEG.{key} must be from"):
        check_bounds(cfg)
    fill(cfg, options=["U2SEG.MERGE.ORDER", "are"])
    with pytest.raises(UsageError, match="U2SEG"):
        check_bounds(cfg)


def test_defaults_keep_their_own_bounds_and_belong_to_one_config():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from u2seg.engine.config import get_cfg

    changed = get_cfg()
    changed.MODEL.VIT.BLOCKS.append(3)
    changed.U2SEG.MERGE.ORDER = "score"
    fresh = get_cfg()
    assert fresh.MODEL.VIT.BLOCKS == []
    assert fresh.U2SEG.MERGE.ORDER == "area"
    check_bounds(fresh)
