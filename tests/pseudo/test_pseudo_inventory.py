"""Which photos changed since the last run."""

import os

import pytest

from u2seg.images import find_photos
from u2seg.pseudo.inventory import take_inventory


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the system notes no time of change beside that of writing")
def test_a_photo_of_the_same_size_and_time_of_writing_is_noticed(tmp_path):
    photo = tmp_path / "photos" / "a.png"
    photo.parent.mkdir()
    photo.write_bytes(b"one")
    first = take_inventory(find_photos(str(photo.parent)), tmp_path / "table")
    first.save()
    times = photo.stat().st_atime_ns, photo.stat().st_mtime_ns
    photo.write_bytes(b"two")
    os.utime(photo, ns=times)
    second = take_inventory(find_photos(str(photo.parent)), tmp_path / "table")
    assert first.keys != second.keys
