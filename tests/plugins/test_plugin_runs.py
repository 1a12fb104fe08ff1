"""Installed plugins that fail, in whole runs of the tool: what fails has a name, and nothing is lost in silence."""

import json
import re
import subprocess

import pytest
from PIL import Image
from test_end_to_end import TOOL, generate_apart, options, photos, tiny_weights
from test_faults import site

__all__ = ["options", "photos", "tiny_weights"]

WORKERS = ["U2SEG.EXECUTOR.NAME", "process", "U2SEG.EXECUTOR.WORKERS", 2]
MASKS = """
    import numpy as np
    import u2seg
    from u2seg.pseudo.masks.maskcut import MaskCut

    class Mine(MaskCut):
        def generate(self, image, features):
            {body}

    @u2seg.hookimpl
    def u2seg_mask_generators():
        return {{"mine": lambda: Mine(tau=0.8)}}
"""
STUFF = """
    import numpy as np
    import u2seg
    from u2seg.pseudo.stuff import KMeansStuff

    class Mine(KMeansStuff):
        def segment(self, image, features):
            scores = super().segment(image, features)
            return {result}

    @u2seg.hookimpl
    def u2seg_stuff_segmenters():
        return {{"mine": Mine}}
"""
NO_GENERATE = """
    import u2seg

    class Mine:
        def generates(self, image, features):
            pass

    @u2seg.hookimpl
    def u2seg_mask_generators():
        return {"mine": Mine}
"""


def run(tmp_path, source, photos, options, *more, **environment):
    env = {**site(tmp_path / "site", "mine", source), **environment}
    return generate_apart(photos, tmp_path / "out", *options, *more, env=env)


def line_of(source, text):
    """The line of the dedented ``source`` that holds ``text``."""
    return 1 + next(index for index, line in enumerate(source.split("\n")) if text in line)


def test_an_error_on_a_photo_names_part_distribution_photo_file_and_line(photos, options, tmp_path):
    lowest = min(height(path) for path in photos.rglob("*.jpg"))
    body = f"return super().generate(image, features) if image.shape[0] != {lowest} else image['x']"
    source = MASKS.format(body=body)
    done = run(tmp_path, source, photos, options, "U2SEG.MASKS.NAME", "mine", *WORKERS, U2SEG_DEBUG="1")
    assert done.returncode == 0, done.stderr
    (skipped,) = json.loads((tmp_path / "out" / "run.json").read_text())["skipped"]
    assert skipped["reason"].startswith("mask generator 'mine' of mine 1.0: IndexError: only integers")
    assert skipped["reason"].endswith(f"(mine.py:{line_of(source, 'image[')})")
    assert "Traceback" in done.stderr
    assert "image['x']" in done.stderr
    assert re.search(rf"{re.escape(skipped['file'])}: traceback, since U2SEG_DEBUG is set", done.stderr)


def height(path):
    with Image.open(path) as image:
        return image.height


@pytest.mark.parametrize(
    ("body", "more", "words"),
    [
        ("return super().generate(image, features).masks", WORKERS, "generate gives a u2seg.MaskSet, not bool"),
        ("open('/nowhere/weights.pth')", [], "FileNotFoundError"),
    ],
    ids=["form", "file"],
)
def test_a_contract_that_is_broken_ends_the_run_on_the_first_photo(photos, options, tmp_path, body, more, words):
    done = run(tmp_path, MASKS.format(body=body), photos, options, "U2SEG.MASKS.NAME", "mine", *more)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error:" in line]
    assert line.startswith("generate_pseudo.py: error: mask generator 'mine' of mine 1.0")
    assert words in line
    assert re.search(r"\(at photo \S.*\.jpg\)$", line)
    assert "Traceback" not in done.stderr


def test_logits_as_stuff_are_refused(photos, options, tmp_path):
    done = run(tmp_path, STUFF.format(result="np.log(scores + 1e-6)"), photos, options, "U2SEG.STUFF.NAME", "mine")
    assert done.returncode == 2
    assert "stuff segmenter 'mine' of mine 1.0 breaks its contract: probabilities lie in [0, 1], not [-" in done.stderr
    assert not (tmp_path / "out" / "panoptic.json").exists()


def test_a_missing_generate_is_found_before_any_work(photos, options, tmp_path):
    done = run(tmp_path, NO_GENERATE, photos, options, "U2SEG.MASKS.NAME", "mine")
    assert done.returncode == 2
    assert "mask generator 'mine' of mine 1.0 breaks its contract: Mine has no method generate(" in done.stderr
    assert not (tmp_path / "out").exists()


def tool(*arguments, env):
    return subprocess.run([*TOOL, *map(str, arguments)], capture_output=True, text=True, env=env, check=False)


def test_check_plugin_runs_the_full_contract(tmp_path):
    source = MASKS.format(
        body="self.c = getattr(self, 'c', 0) + 1; m = np.ones((1, 3, self.c), bool)\n"
        "            return u2seg.MaskSet(m, np.ones(1, np.float32))"
    )
    env = site(tmp_path / "site", "mine", source)
    done = tool("--check-plugin", "mine", env=env)
    assert done.returncode == 2
    assert "mask generator 'mine' of mine 1.0 breaks its contract: the same image, the same masks" in done.stderr
    good = tool("--check-plugin", "kmeans", "U2SEG.NUM_THINGS", 5, env=env)
    assert good.returncode == 0, good.stderr
    assert [line.split(" ")[0] for line in good.stdout.splitlines()] == ["clusterer", "stuff"]
    unknown = tool("--check-plugin", "mien", env=env)
    assert unknown.returncode == 2
    assert "no part or plugin named 'mien'. Did you mean 'mine'?" in unknown.stderr


def test_list_plugins_shows_the_names_to_disable_and_what_is_wrong(tmp_path):
    env = site(tmp_path / "site", "first", NO_GENERATE)
    site(tmp_path / "site", "second", "raise SystemExit('no licence')")
    for name in ("first", "second"):
        path = tmp_path / "site" / f"{name}-1.0.dist-info" / "entry_points.txt"
        path.write_text(f"[u2seg]\nmain = {name}\n")
    listed = tool("--list-plugins", env=env)
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"first:main +first 1\.0", listed.stdout)
    assert "plugin 'second:main' of second 1.0 is broken: SystemExit: no licence (second.py:1)" in listed.stdout
    listed = tool("--list-plugins", "--json", env={**env, "U2SEG_DISABLE_PLUGINS": "second:main,x"})
    table = json.loads(listed.stdout)
    assert table["plugins"] == {"first:main": "first 1.0"}
    assert table["disabled"] == ["second:main"]
    assert "no plugin named 'x'" in listed.stderr
