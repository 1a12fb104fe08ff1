"""Photos that take workers down, and an environment that fails: what is lost is named, and nothing else is lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import textwrap

import numpy as np
import pytest
from PIL import Image
from test_end_to_end import TOOL, command_line, generate, generate_apart, options, photos, result, tiny_weights
from test_jobs import is_alive, until

__all__ = ["options", "photos", "tiny_weights"]

FAULTS = """
    import os, signal, sys
    import u2seg
    from u2seg.pseudo.masks.maskcut import MaskCut

    class Faulty(MaskCut):
        def generate(self, image, features):
            ends = {101: lambda: os._exit(3), 102: lambda: os.kill(os.getpid(), signal.SIGSEGV), 103: sys.exit}
            ends.get(image.shape[1], lambda: None)()
            return super().generate(image, features)

    @u2seg.hookimpl
    def u2seg_mask_generators():
        return {"faulty": lambda: Faulty(tau=0.8)}
"""


SLOW = """
    import os, time
    import u2seg
    from u2seg.pseudo.masks.maskcut import MaskCut

    class Slow(MaskCut):
        def generate(self, image, features):
            open(os.path.join(os.environ["STARTED"], str(os.getpid())), "w").close()
            time.sleep(600)

    @u2seg.hookimpl
    def u2seg_mask_generators():
        return {"slow": Slow}
"""


def site(folder, name, source):
    """A folder for PYTHONPATH in which a plugin is installed as pip would."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[u2seg]\n{name} = {name}\n")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_photos_that_take_workers_down_are_put_aside_and_the_rest_is_labelled(photos, options, tmp_path):
    mixed = tmp_path / "photos"
    shutil.copytree(photos, mixed)
    noise = np.random.default_rng(0).integers(0, 255, (80, 110, 3)).astype(np.uint8)
    for width in (101, 102, 103):
        Image.fromarray(noise[:, :width]).save(mixed / f"b{width}.png")
    extra = ["U2SEG.MASKS.NAME", "faulty", "U2SEG.EXECUTOR.NAME", "process", "U2SEG.EXECUTOR.WORKERS", 2]
    environment = site(tmp_path / "site", "faults", FAULTS)
    done = generate_apart(mixed, tmp_path / "out", *options, *extra, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    reasons = {entry["file"]: entry["reason"] for entry in run["skipped"]}
    assert reasons.keys() == {"b101.png", "b102.png", "b103.png"}
    assert "exit code 3" in reasons["b101.png"]
    assert "SIGSEGV" in reasons["b102.png"]
    assert "SystemExit" in reasons["b103.png"]
    assert all("mask generator 'faulty' of faults 1.0" in reason for reason in reasons.values())
    assert run["photos"]["labelled"] == 3


def test_photos_whose_disk_goes_away_are_not_lost(photos, options, tmp_path, monkeypatch):
    from u2seg.pseudo import worker

    folder, hidden = tmp_path / "photos", tmp_path / "elsewhere"
    shutil.copytree(photos, folder)
    read_shrunk, reads = worker.read_shrunk, []

    def unmount_after_one(path, *args, **kwargs):
        if reads and folder.exists():
            folder.rename(hidden)
        reads.append(path)
        return read_shrunk(path, *args, **kwargs)

    monkeypatch.setattr(worker, "read_shrunk", unmount_after_one)
    gone = generate(folder, tmp_path / "out", *options)
    assert gone.returncode == 1
    assert str(folder) in gone.stderr
    assert not (tmp_path / "out" / "panoptic.json").exists()
    monkeypatch.undo()
    hidden.rename(folder)
    back = generate(folder, tmp_path / "out", *options)
    assert back.returncode == 0, back.stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["photos"]["labelled"] == 3
    assert generate(folder, tmp_path / "whole", *options).returncode == 0
    assert result(tmp_path / "out") == result(tmp_path / "whole")


def test_a_run_stops_where_most_photos_fail(photos, options, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    for number in range(12):
        (folder / f"empty{number:02}.png").touch()
    stopped = generate(folder, tmp_path / "out", *options)
    assert stopped.returncode == 2
    assert "of 15 photos failed: empty file (11)" in stopped.stderr
    assert "MAX_FAILURES" in stopped.stderr
    allowed = generate(folder, tmp_path / "out", *options, "U2SEG.EXECUTOR.MAX_FAILURES", 1.0)
    assert allowed.returncode == 0, allowed.stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["photos"]["labelled"] == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_told_to_stop_ends_with_its_workers(photos, options, tmp_path, number, code):
    started = tmp_path / "started"
    started.mkdir()
    environment = {**site(tmp_path / "site", "slow", SLOW), "STARTED": str(started)}
    extra = ["U2SEG.MASKS.NAME", "slow", "U2SEG.EXECUTOR.NAME", "process", "U2SEG.EXECUTOR.WORKERS", 2]
    command = [*TOOL, *command_line(photos, tmp_path / "out", *options, *extra)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as tool:
        until(lambda: any(started.iterdir()), seconds=120)
        tool.send_signal(number)
        _, stderr = tool.communicate(timeout=60)
    assert tool.returncode == code
    assert stderr.endswith("run the same command again to resume\n")
    assert "Traceback" not in stderr
    for path in started.iterdir():
        until(lambda pid=int(path.name): not is_alive(pid))


def test_damage_is_found_and_mended(photos, options, tmp_path):
    output = tmp_path / "out"
    assert generate(photos, output, *options).returncode == 0
    whole = result(output)
    assert generate(photos, output, "--verify").stdout == "all files are whole\n"
    png, other = sorted((output / "panoptic").rglob("*.png"))[:2]
    content = bytearray(png.read_bytes())
    content[len(content) // 2] ^= 1
    png.write_bytes(content)
    other.unlink()
    (output / "instances.json").write_text("[]")
    told = generate(photos, output, "--verify")
    assert told.returncode == 1
    for path in (png, other, output / "instances.json"):
        assert f"{path.relative_to(output).as_posix()}: " in told.stdout
    assert generate(photos, output, *options).returncode == 0
    assert result(output) == whole
    assert generate(photos, output, "--verify").returncode == 0


def test_damage_that_only_verifying_finds_is_mended_afterwards(photos, options, tmp_path):
    output = tmp_path / "out"
    assert generate(photos, output, *options).returncode == 0
    whole, png = result(output), next((output / "panoptic").rglob("*.png"))
    status, content = png.stat(), bytearray(png.read_bytes())
    content[len(content) // 2] ^= 1
    png.write_bytes(content)
    os.utime(png, ns=(status.st_atime_ns, status.st_mtime_ns))
    told = generate(photos, output, "--verify")
    assert told.stdout.endswith(
        "1 damaged files; the command that made the labels, run again, makes just these again\n"
    )
    assert generate(photos, output, *options).returncode == 0
    assert result(output) == whole


@pytest.mark.slow
@pytest.mark.parametrize("fewest", [100, 1], ids=["files", "shards"])
def test_flipped_bytes_in_any_file_are_harmless(photos, options, tmp_path, monkeypatch, fewest):
    """60 flips, one at a time, in finished and intermediate files: the next run makes the same bytes again."""
    monkeypatch.setattr("u2seg.pseudo.index.FEWEST_RECORDS", fewest)
    output = tmp_path / "out"
    assert generate(photos, output, *options).returncode == 0
    whole, clock = result(output), random.Random(0)
    for number in range(60):
        files = [path for path in sorted(output.rglob("*")) if path.is_file() and path.stat().st_size]
        path = clock.choice([path for path in files if path.name not in (".u2seg.json", "run.json", "lock")])
        content = bytearray(path.read_bytes())
        content[clock.randrange(len(content))] ^= 1 << clock.randrange(8)
        path.write_bytes(content)
        again = generate(photos, output, *options)
        assert again.returncode == 0, (number, path, again.stderr)
        assert result(output) == whole, (number, path)


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """A Dask cluster of two worker processes on this machine, with the plugin of `FAULTS`; its scheduler's address."""
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    monkeypatch.setenv("PYTHONPATH", site(tmp_path / "site", "faults", FAULTS)["PYTHONPATH"])
    monkeypatch.syspath_prepend(tmp_path / "site")  # which spawned workers inherit
    arguments = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**arguments) as local:
        yield local.scheduler_address


@pytest.mark.slow
def test_a_photo_that_takes_dask_workers_down_is_put_aside(photos, options, tmp_path, cluster):
    mixed = tmp_path / "photos"
    shutil.copytree(photos, mixed)
    noise = np.random.default_rng(0).integers(0, 255, (80, 101, 3)).astype(np.uint8)
    Image.fromarray(noise).save(mixed / "b101.png")
    extra = ["U2SEG.MASKS.NAME", "faulty", "U2SEG.EXECUTOR.NAME", "dask", "U2SEG.EXECUTOR.ADDRESS", cluster]
    done = generate_apart(mixed, tmp_path / "out", *options, *extra)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [entry["file"] for entry in run["skipped"]] == ["b101.png"]
    assert run["photos"]["labelled"] == 3


@pytest.mark.slow
def test_dask_workers_with_other_plugins_are_refused(photos, options, tmp_path, cluster, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    extra = ["U2SEG.EXECUTOR.NAME", "dask", "U2SEG.EXECUTOR.ADDRESS", cluster]
    done = generate_apart(photos, tmp_path / "out", *options, *extra)
    assert done.returncode == 2
    assert "would make other labels: plugins is" in done.stderr
    assert "'faults 1.0'} there" in done.stderr
    assert "Traceback" not in done.stderr
