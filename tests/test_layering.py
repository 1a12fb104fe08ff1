"""Who may import whom, and no circle: read from the source, so that no import at run time can hide it."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "u2seg"
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

GROUND = {"errors", "structures", "config", "fields"}
TOOLS = GROUND | {
    *("files", "images", "panoptic", "tool", "runtime", "forkserver", "executors", "jobs", "weights_file")
}
LABELS = TOOLS | {"plugins", "pseudo"}
ROOMS = {
    "errors": set(),
    "structures": {"errors"},
    "config": {"errors"},
    "fields": {"errors"},
    "files": GROUND,
    "weights_file": GROUND | {"files"},
    "images": GROUND | {"files"},
    "panoptic": GROUND | {"files"},
    "tool": set(),
    "runtime": GROUND | {"tool"},
    "forkserver": {"tool"},
    "executors": GROUND | {"tool", "runtime"},
    "jobs": GROUND | {"tool", "runtime", "executors"},
    "plugins": TOOLS,
    "pseudo": LABELS - {"pseudo"},
    "evaluation": TOOLS,
    "report": TOOLS,
    "data": LABELS,
    "modeling": LABELS,
    "engine": LABELS | {"data", "modeling", "evaluation", "report"},
    "stego": LABELS | {"data", "evaluation", "engine"},
}
"""Room to the other rooms that it may import."""
LIBRARIES = {
    "errors": {"torch", "detectron2", "numpy", "scipy", "pluggy"},
    "structures": {"torch", "detectron2", "scipy", "pluggy"},
    "config": {"torch", "detectron2", "scipy", "pluggy"},
    "fields": {"torch", "detectron2", "numpy", "scipy", "pluggy"},
    "files": {"torch", "detectron2", "scipy"},
    "weights_file": {"detectron2", "scipy"},
    "images": {"torch", "detectron2", "scipy"},
    "panoptic": {"torch", "detectron2", "scipy"},
    "tool": {"torch", "detectron2", "numpy", "scipy", "pluggy"},
    "runtime": {"detectron2", "scipy"},
    "forkserver": {"torch", "detectron2", "numpy", "scipy", "pluggy"},
    "executors": {"torch", "detectron2", "scipy"},
    "jobs": {"torch", "detectron2", "scipy"},
    "plugins": {"torch", "detectron2", "scipy"},
    "pseudo": {"detectron2"},
    "evaluation": {"detectron2"},
    "report": {"torch", "detectron2"},
    # What the label factory uses of STEGO.
    **{f"u2seg.stego.{module}": {"detectron2"} for module in ("segmenter", "head")},
}
"""Room, or module, to libraries that it may not import."""
EXCEPTIONS = {
    # The built-ins are offered through the same hooks as anyone's; what they are is imported when a hook is called.
    ("u2seg.plugins.builtin", "pseudo"),
    ("u2seg.plugins.builtin", "stego"),
    # Detectron2's evaluator, around what needs no Detectron2.
    ("u2seg.evaluation.evaluator", "detectron2"),
}


def room(module):
    return module.split(".")[1] if "." in module else "u2seg"


def imports(name):
    """Modules that module ``name`` imports, anywhere in it, but for those under TYPE_CHECKING."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    hidden = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


@pytest.mark.parametrize("name", MODULES)
def test_each_module_imports_only_what_it_may(name):
    here = room(name)
    for module in imports(name):
        library = module.split(".")[0]
        assert library not in ("tools", "tests", "examples"), f"{name} imports {module}"
        if here == "u2seg":
            continue
        if library == "u2seg":
            there = room(module)
            allowed = there in (here, "u2seg") or there in ROOMS[here] or (name, there) in EXCEPTIONS
            assert allowed, f"{name} imports {module}"
        else:
            banned = library in LIBRARIES.get(name, LIBRARIES.get(here, ())) and (name, library) not in EXCEPTIONS
            assert not banned, f"{name} imports {module}"


def test_there_is_no_circle():
    """Not even a lazy one: an import inside a function is a dependency as well."""
    graph = {name: {m for m in imports(name) if m in MODULES and m != name} for name in MODULES}
    graph = {name: sources - {"u2seg"} for name, sources in graph.items() if name not in ("u2seg",)}
    # The registry loads the built-ins by their name, as it loads everyone's entry points.
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_importing_the_package_and_listing_plugins_needs_no_torch():
    code = (
        "import sys, u2seg; from u2seg.plugins.registry import load_plugins; load_plugins([], '').table();"
        "heavy = {'torch', 'timm', 'sklearn', 'scipy', 'detectron2', 'cv2'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
