#!/usr/bin/env python
"""Make a pseudo-panoptic dataset from photos without labels."""

import argparse
import json
import sys
from pathlib import Path

from u2seg.runtime import run_tool
from u2seg.tool import ToolParser

EXAMPLES = """
examples:
  # the shipped settings, with a vision transformer that pip delivers; K and S to suit the number of photos
  python tools/generate_pseudo.py --config-file configs/pseudo/quickstart.yaml --images my_photos --output out \\
      U2SEG.NUM_THINGS 100 U2SEG.NUM_STUFF 27

  # the paper's settings (DINO ViT-B/8, K = 300)
  python tools/generate_pseudo.py --config-file configs/pseudo/u2seg_dino_vitb8_300.yaml \\
      --images 'train/**/*.jpg' --output out

  # other numbers of clusters from the masks that are there already
  python tools/generate_pseudo.py --config-file ... --images my_photos --output out --redo cluster U2SEG.NUM_THINGS 300

  # label new photos with the ids of an earlier run
  python tools/generate_pseudo.py --config-file ... --images new_photos --output out2 U2SEG.CLUSTERS.REUSE out

  # a round of self-training: the labels of out, and what a model trained on them is sure of (docs/self_training.md)
  python tools/generate_pseudo.py --config-file configs/pseudo/self_training.yaml --output out_1 \\
      U2SEG.SELF_TRAINING.LABELS out U2SEG.SELF_TRAINING.MODEL output/model

The same command again resumes a run that was stopped, and labels photos that are new or have changed. Photos without a
label are named at the end and in run.json. Look at the result with tools/visualize_pseudo.py, score it with
tools/evaluate_pseudo.py.
"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = ToolParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--config-file", metavar="YAML", help="settings, such as configs/pseudo/quickstart.yaml")
    parser.add_argument(
        "--images",
        help="a folder, a 'pattern*', one photo, a .txt of paths, or a COCO .json; self-training uses the photos of "
        "its labels where this is left out",
    )
    parser.add_argument("--image-root", help="the folder that file names in the dataset are relative to")
    parser.add_argument("--output", metavar="DIR", help="directory of the dataset: new, empty, or of an earlier run")
    parser.add_argument("--stages", default="fit,label,cluster,merge", help="those to run (default: %(default)s)")
    parser.add_argument(
        "--redo",
        metavar="WHAT",
        help="make this again, and what depends on it, with other settings if you like: fit (the stuff segmenter), "
        "masks, stuff, label (both), cluster, fitted (fit and cluster), merge or all",
    )
    parser.add_argument("--strict", action="store_true", help="exit with code 1 if any photo has no label")
    parser.add_argument(
        "--verify", action="store_true", help="only check the finished dataset in --output against its SHA256SUMS"
    )
    parser.add_argument(
        "--list-plugins",
        action="store_true",
        help="show every part that U2SEG.*.NAME, and every label generator that U2SEG.GENERATOR can name, and stop",
    )
    parser.add_argument(
        "--check-plugin",
        metavar="NAME",
        help="check the contract of a part, or of every part of a plugin, and stop; with --config-file, on the "
        "features that it names (docs/plugins.md)",
    )
    parser.add_argument("--json", action="store_true", help="with --list-plugins: as JSON")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings over those of the YAML")
    return parser.parse_args(argv)


def import_generators(name: str) -> None:
    """Register the built-in label generators; where ``name`` is none of them, those of plugins too."""
    import importlib.util

    import u2seg.engine.self_training
    import u2seg.pseudo.pipeline  # noqa: F401  both register their own
    from u2seg.plugins.registry import register_detectron2
    from u2seg.pseudo.generators import PSEUDO_LABEL_GENERATORS

    if name not in PSEUDO_LABEL_GENERATORS and importlib.util.find_spec("detectron2"):
        register_detectron2()


def list_plugins(as_json: bool) -> None:
    """Print every offer of every plugin."""
    from u2seg.plugins.offers import DISABLE_VARIABLE
    from u2seg.plugins.registry import installed_plugins
    from u2seg.pseudo.generators import generator_table

    plugins = installed_plugins()
    import_generators("")
    rows = [*generator_table(), *plugins.table()]
    broken = [str(plugin) for plugin in plugins.broken]
    if as_json:
        state = {"plugins": plugins.third_parties(), "broken": broken, "disabled": plugins.disabled}
        print(json.dumps({"parts": rows, **state}, indent=1))
        return
    for row in rows:
        print(f"{row['kind']:18} {row['name']:14} {row['distribution']}\n    {row['help']}\n    {row['arguments']}")
    print(f"\nplugins ({DISABLE_VARIABLE}=name,name leaves them out):")
    for name, distribution in plugins.third_parties().items():
        print(f"    {name:20} {distribution}")
    print("\n".join([*(f"    {name:20} disabled" for name in plugins.disabled), *broken]))


def verify(output: Path) -> int:
    """Say which files of a finished dataset are damaged; the exit code."""
    from u2seg.pseudo.publication import forget_publication
    from u2seg.pseudo.record import damaged_files

    damaged = damaged_files(output)
    for name, reason in damaged.items():
        print(f"{name}: {reason}")
    if not damaged:
        print("all files are whole")
        return 0
    forget_publication(output)
    print(f"{len(damaged)} damaged files; the command that made the labels, run again, makes just these again")
    return 1


def main(argv: list[str] | None = None) -> int:
    """Run the tool."""
    args = parse(argv)
    if args.list_plugins:
        list_plugins(args.json)
        return 0
    from u2seg.errors import UsageError, lookup

    if not args.output and not args.check_plugin:
        raise UsageError("--output is missing; see --help")
    if args.verify:
        return verify(Path(args.output))
    from u2seg.config import check_bounds, fill, get_pseudo_cfg
    from u2seg.plugins.registry import add_plugin_config
    from u2seg.pseudo.generators import PSEUDO_LABEL_GENERATORS
    from u2seg.pseudo.ledger import REDOABLE, STAGES
    from u2seg.pseudo.recipe import check_plugin

    cfg = get_pseudo_cfg()
    add_plugin_config(cfg)
    fill(cfg, args.config_file or "", args.opts)
    check_bounds(cfg)
    if args.check_plugin:
        for line in check_plugin(args.check_plugin, cfg, real_features=bool(args.config_file)):
            print(line)
        return 0
    stages = [name.strip() for name in args.stages.split(",") if name.strip()]
    for stage in stages:
        lookup("stage", stage, dict.fromkeys(STAGES))
    if args.redo:
        lookup("product for --redo", args.redo, REDOABLE)
    import_generators(cfg.U2SEG.GENERATOR)
    generator_class = lookup("label generator (U2SEG.GENERATOR)", cfg.U2SEG.GENERATOR, dict(PSEUDO_LABEL_GENERATORS))
    photos = generator_class.find_photos(cfg, args.images, args.image_root)
    summary = generator_class(cfg, photos, args.output).run(stages, args.redo)
    if summary is None:
        return 0
    print("\n".join([*summary.lines(), *photos.notes(), f"dataset: {args.output}/panoptic.json"]))
    return 1 if args.strict and summary.skipped else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
