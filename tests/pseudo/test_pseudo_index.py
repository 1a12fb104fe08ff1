"""Records in files of their own and in shards: whoever reads sees a dict, whatever happens to the files."""

import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from u2seg.files import write_bytes
from u2seg.pseudo import index as index_module
from u2seg.pseudo.index import ProductIndex
from u2seg.pseudo.intermediate import DamagedFileError

KEYS = [f"{number:016x}" for number in range(8)]
CONTENT = {key: key.encode() * (3 + number) for number, key in enumerate(KEYS)}


def open_index(root):
    return ProductIndex(root, "masks", "0" * 16)


def write(index, keys=KEYS):
    """What workers do."""
    for key in keys:
        write_bytes(index.path(key), CONTENT[key])


@pytest.fixture
def packed(tmp_path):
    """An index of eight records in one shard."""
    index = open_index(tmp_path)
    write(index)
    index.pack(KEYS)
    return index


def shards(index):
    return sorted(index.folder.glob("*.zip"))


def read_all(index):
    """Content of each record that there is; damaged ones are dropped, as a run does."""
    records, damaged = {}, set()
    for key in filter(index.has, KEYS):
        try:
            with index.reading(key) as content:
                records[key] = content
        except DamagedFileError as error:
            damaged.add(error.key)
    index.drop(damaged)
    return records


def test_packed_records_are_read_where_they_lie(packed, tmp_path):
    assert len(shards(packed)) == 1
    assert not list(packed.folder.rglob("*.npz"))
    for index in (packed, open_index(tmp_path)):
        assert read_all(index) == CONTENT
        job = index.view(KEYS[:2])
        with job.reading(KEYS[1]) as content:
            assert content == CONTENT[KEYS[1]]
        assert set(job.shards) == set(KEYS[:2])


def test_only_what_is_worth_a_shard_is_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "SHARD_RECORDS", 3)
    monkeypatch.setattr(index_module, "FEWEST_RECORDS", 3)
    index = open_index(tmp_path)
    write(index)
    index.refresh()
    index.pack_many(KEYS)
    assert (len(shards(index)), len(index.loose)) == (2, 2)
    assert read_all(index) == CONTENT


steps = st.lists(
    st.tuples(
        st.sampled_from(["write", "pack", "pack_many", "drop", "sweep", "reopen", "pack, killed"]),
        st.sets(st.sampled_from(KEYS)),
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(steps)
@example([("write", set(KEYS[:2])), ("pack", set(KEYS[:2])), ("sweep", {KEYS[0]}), ("sweep", set(KEYS[:2]))])
def test_any_order_of_steps_equals_a_dict(order):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "FEWEST_RECORDS", 1)
        patch.setattr(index_module, "SHARD_RECORDS", 2)
        index, model = open_index(Path(folder)), {}
        unneeded = set()  # a shard may keep them, and a photo that comes back finds them there
        for step, chosen in order:
            keys = sorted(chosen)
            if step == "write":  # a run only makes what is missing
                keys = [key for key in keys if key not in model]
                write(index, keys)
                index.refresh()
                model |= {key: CONTENT[key] for key in keys}
            elif step == "pack, killed":
                index.pack(keys)
                write(index, [key for key in keys if key in model])  # its files are there still
                index = open_index(Path(folder))
            elif step == "reopen":
                index = open_index(Path(folder))
            elif step == "drop":
                index.drop(chosen)
                model = {key: content for key, content in model.items() if key not in chosen}
                unneeded -= chosen
            elif step == "sweep":
                index.sweep(chosen)
                unneeded |= model.keys() - chosen
                model = {key: content for key, content in model.items() if key in chosen}
                assert all(key in model or key in unneeded for key in chosen if index.has(key))
                assert all(content == CONTENT[key] for key, content in read_all(index).items())
            else:
                getattr(index, step)(keys)
            assert {k: v for k, v in read_all(index).items() if k in model} == model
            index.sweep(set(model))  # what a shard keeps of records that are not needed is not asked for
            assert {k: v for k, v in read_all(index).items() if k in model} == model


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_byte_costs_what_it_hit(packed, tmp_path, seed):
    clock, (shard,) = random.Random(seed), shards(packed)
    content = bytearray(shard.read_bytes())
    content[clock.randrange(len(content))] ^= 1 << clock.randrange(8)
    shard.write_bytes(content)
    index = open_index(tmp_path)
    records = read_all(index)
    assert records.items() <= CONTENT.items()
    assert read_all(index) == records == {key: CONTENT[key] for key in KEYS if index.has(key)}
    write(index, [key for key in KEYS if not index.has(key)])
    assert read_all(open_index(tmp_path)) == CONTENT


def test_a_damaged_record_costs_that_record_alone(packed, tmp_path):
    (shard,) = shards(packed)
    content = shard.read_bytes()
    shard.write_bytes(content.replace(CONTENT[KEYS[3]], b"!" * len(CONTENT[KEYS[3]])))
    index = open_index(tmp_path)
    assert read_all(index).keys() == set(KEYS) - {KEYS[3]}
    assert not index.has(KEYS[3])
    assert not shard.exists()
    assert read_all(open_index(tmp_path)).keys() == set(KEYS) - {KEYS[3]}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_shard_is_given_up_in_one_line(packed, tmp_path, caplog, share):
    (shard,) = shards(packed)
    content = shard.read_bytes()
    shard.write_bytes(content[: int(share * len(content))])
    index = open_index(tmp_path)
    assert not any(map(index.has, KEYS))
    assert not shard.exists()
    (record,) = caplog.records
    assert f"{shard} was damaged" in record.getMessage()
    assert "the masks of its photos are made again" in record.getMessage()


def test_a_kill_between_packing_and_deleting_loses_nothing(packed, tmp_path):
    write(packed)
    index = open_index(tmp_path)
    assert read_all(index) == CONTENT
    index.pack_many(KEYS)
    index.sweep(set(KEYS))
    assert read_all(open_index(tmp_path)) == CONTENT


def test_half_a_shard_is_swept(packed, tmp_path):
    (packed.folder / f".{'0' * 32}.part.zip").write_bytes(b"half")
    packed.sweep(set(KEYS))
    assert len(list(packed.folder.glob("*.zip"))) == len(list(packed.folder.iterdir())) - 1
    assert read_all(packed) == CONTENT


def test_two_processes_that_pack_at_once_lose_nothing(tmp_path):
    indexes = [open_index(tmp_path) for _ in range(2)]
    write(indexes[0])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda index: index.pack(KEYS), indexes))
    assert read_all(open_index(tmp_path)) == CONTENT


def test_a_shard_is_kept_while_half_of_it_is_needed(packed):
    (shard,) = shards(packed)
    packed.sweep(set(KEYS[:4]))
    assert shards(packed) == [shard]
    packed.sweep(set(KEYS[:3]))
    assert shards(packed) != [shard]
    assert read_all(packed) == {key: CONTENT[key] for key in KEYS[:3]}
    packed.sweep(set())
    assert shards(packed) == []


def test_records_of_other_fingerprints_are_swept(packed, tmp_path):
    other = ProductIndex(tmp_path, "masks", "1" * 16)
    write(other)
    packed.sweep(set(KEYS))
    assert [folder.name for folder in (tmp_path / "stages" / "masks").iterdir()] == ["0" * 16]
