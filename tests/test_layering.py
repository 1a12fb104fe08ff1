"""Who may import whom: read from the source, so that no import at run time can hide it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "u2seg"
MODULES = sorted(ROOT.rglob("*.py"))

FORBIDDEN = {
    "errors.py": ["u2seg", "torch", "detectron2", "scipy", "pluggy", "numpy"],
    "structures.py": ["u2seg.pseudo", "u2seg.plugins", "torch", "detectron2", "pluggy"],
    "plugins": ["u2seg.pseudo", "u2seg.evaluation", "torch", "detectron2", "scipy", "fvcore", "u2seg.config"],
    "pseudo": [
        "detectron2",
        "u2seg.evaluation",
        "u2seg.data",
        "u2seg.modeling",
        "u2seg.engine",
        "u2seg.stego",
        "u2seg.report",
        "tools",
    ],
    "evaluation": [
        "detectron2",
        "u2seg.pseudo",
        "u2seg.data",
        "u2seg.modeling",
        "u2seg.engine",
        "u2seg.report",
        "tools",
    ],
    "data": ["u2seg.stego"],
    "modeling": ["u2seg.stego"],
    "engine": ["u2seg.stego"],
    "stego": ["u2seg.modeling", "u2seg.report", "tools"],
    "report": ["detectron2", "u2seg.modeling", "u2seg.engine", "tools"],
    "": ["tools", "tests", "examples"],
}
MAY_USE_DETECTRON2 = {"evaluation/evaluator.py"}
COMPOSITION_ROOT = "plugins/builtin.py"


def imports(path):
    """Modules that ``path`` imports, anywhere in it, but for those under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_each_module_imports_only_what_it_may(path):
    relative = path.relative_to(ROOT).as_posix()
    found = list(imports(path))
    for room, banned in FORBIDDEN.items():
        if not (relative == room or relative.startswith(f"{room}/") or room == ""):
            continue
        for name in found:
            for prefix in banned:
                if relative in MAY_USE_DETECTRON2 or (relative == COMPOSITION_ROOT and prefix == "u2seg.pseudo"):
                    continue
                assert not f"{name}.".startswith(f"{prefix}."), f"{relative} imports {name}"


def test_importing_the_package_and_listing_plugins_needs_no_torch():
    code = (
        "import sys, u2seg; from u2seg.plugins.registry import load_plugins; load_plugins([], '').table();"
        "heavy = {'torch', 'timm', 'sklearn', 'scipy', 'detectron2', 'cv2'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
