"""Ids of panoptic PNGs: both readers, and what they refuse."""

import os

import numpy as np
import pytest
from PIL import Image

from u2seg.errors import DataError
from u2seg.files import write_png
from u2seg.panoptic import LARGEST_ID as LARGE
from u2seg.panoptic import codes, encode_ids, read_ids


def test_png_ids_survive_the_round_trip(tmp_path):
    ids = np.random.default_rng(0).integers(0, LARGE + 1, (17, 23))
    write_png(tmp_path / "a.png", encode_ids(ids))
    assert np.array_equal(read_ids(tmp_path / "a.png"), ids)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (480, 640), (7, 31)])
def test_both_png_readers_give_the_same_ids(size, tmp_path, monkeypatch):
    pytest.importorskip("kornia_rs")
    ids = np.random.default_rng(1).integers(0, LARGE + 1, size)
    write_png(tmp_path / "a.png", encode_ids(ids))
    fast = read_ids(tmp_path / "a.png")
    monkeypatch.setattr(codes, "_read_by_kornia", lambda path: None)
    assert np.array_equal(fast, read_ids(tmp_path / "a.png"))
    assert np.array_equal(fast, ids)


@pytest.mark.parametrize("fast", [True, False])
def test_bad_pngs_are_told_in_words(fast, tmp_path, monkeypatch):
    if not fast:
        monkeypatch.setattr(codes, "_read_by_kornia", lambda path: None)
    Image.new("L", (3, 3)).save(tmp_path / "grey.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match="mode is L, not RGB"):
        read_ids(tmp_path / "grey.png")
    with pytest.raises(DataError, match="can't be read"):
        read_ids(tmp_path / "broken.png")
    with pytest.raises(DataError, match="there is no file"):
        read_ids(tmp_path / "absent.png")


@pytest.mark.parametrize("fast", [True, False])
def test_a_png_is_not_decoded_before_its_size_is_known(fast, tmp_path, monkeypatch):
    """A file of a few bytes may claim 400 megapixels, and a kilobyte of them unpacks to a gigabyte."""
    if not fast:
        monkeypatch.setattr(codes, "_read_by_kornia", lambda path: None)
    write_png(tmp_path / "a.png", encode_ids(np.ones((5, 6), np.int32)))
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = (20_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(DataError, match="claims 20000 x 20000 pixels"):
        read_ids(tmp_path / "bomb.png")
    with pytest.raises(DataError, match=r"has 6 x 5 pixels .* its photo has 5 x 6"):
        read_ids(tmp_path / "a.png", (6, 5))
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="no file"):
        read_ids(tmp_path / "pipe.png")
