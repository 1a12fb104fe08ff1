"""Values of JSON files that others wrote."""

import json
import math
from pathlib import Path

import pytest

from u2seg import fields
from u2seg.errors import DataError, UsageError, printable


def refused(function, value, *arguments):
    with pytest.raises(DataError, match=r"^has ") as caught:
        function({"key": value}, "key", *arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160
    return str(caught.value)


@pytest.mark.parametrize("value", [3, 3.0, "3", " 3 ", "3.0", "+3"])
def test_spellings_of_a_whole_number(value):
    assert fields.whole({"key": value}, "key") == 3
    assert fields.identity({"key": value}, "key") == 3


ODD = [math.inf, -math.inf, math.nan, 2**80, -(2**80), 1.5, True, "x", "", "1e3", [1], {}, "9" * 5000, int("9" * 4000)]


@pytest.mark.parametrize("value", ODD, ids=lambda value: str(value)[:12])
def test_what_is_no_whole_number(value):
    assert "'key'" in refused(fields.whole, value)


def test_bounds_and_absence():
    assert refused(fields.whole, 7, 1, 6) == "has the 'key' 7, not from 1 to 6"
    assert refused(fields.whole, None) == "has null for 'key'"
    with pytest.raises(DataError, match="has no 'key'"):
        fields.whole({}, "key")
    assert fields.whole({"key": None}, "key", default=5) == fields.whole({}, "key", default=5) == 5


def test_numbers():
    assert [fields.number({"key": value}, "key") for value in (1, 0.5, "0.5")] == [1, 0.5, 0.5]
    for value in (math.nan, math.inf, "nan", "x", [1], True, 10**400):
        refused(fields.number, value)


def test_flags():
    for value in (1, True, 1.0, "1", "true", "True", "yes"):
        assert fields.flag({"key": value}, "key") is True
    for value in (0, False, "0", "false", "no"):
        assert fields.flag({"key": value}, "key") is False
    for value in ("thing", 2, [], math.nan, None):
        refused(fields.flag, value)


def test_texts_can_be_printed():
    assert (
        fields.text({"key": "a\x1b[31m\ud800\nb"}, "key") == "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER} b"
    )
    assert fields.text({"key": 7}, "key") == "7"
    refused(fields.text, ["a"])
    assert printable("caf\udce9\x07\u202e\tx\n") == "caf" + 3 * "\N{REPLACEMENT CHARACTER}" + "\tx\n"


def test_ids_as_text_stay_text_where_they_are_no_number():
    assert fields.identity({"key": "bonn_000000_000019"}, "key") == "bonn_000000_000019"


def test_file_names():
    assert fields.file_name({"file_name": "a\\b//./c.jpg"}) == "a/b/c.jpg"
    assert fields.file_name({"file_name": "caf\udce9.jpg"}) == "caf\udce9.jpg"  # bytes that are no UTF-8
    for name in ("", "a\0.jpg", "\ud800.jpg", 3, None, ["a"]):
        refused(fields.file_name, name)


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "a/../b.png", "/root/folder/c.png"])
def test_a_safe_join(name):
    assert fields.inside(Path("/root/folder"), name).is_relative_to("/root/folder")


@pytest.mark.parametrize(
    "name", ["../a.png", "a/../../b.png", "/etc/a.png", "..", ".", "/root/folder2/a.png", "C:/a.png"]
)
def test_what_leads_out(name):
    with pytest.raises(DataError, match="leads out of"):
        fields.inside(Path("/root/folder"), name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_with_any_byte_order_mark(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes(json.dumps({"ä": "日"}, ensure_ascii=False).encode(encoding))
    assert fields.read_json_object(tmp_path / "a.json") == {"ä": "日"}


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, bytes(range(256)), b"9" * 10_000, b"[1]"], ids=range(6))
def test_what_is_no_json_object_is_one_line(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json") as caught:
        fields.read_json_object(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="there is no file"):
        fields.read_json(tmp_path)
