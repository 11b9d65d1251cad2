"""Checkpoints and atomic files: what was saved comes back to the bit, damage is refused, nothing is ever half there."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tandemtune.errors import RunError
from tandemtune.optimizers.cmaes import CMAESSearch
from tandemtune.runs import checkpoint
from tandemtune.runs.writing import write_atomically, write_json

DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int8, np.uint32, np.bool_, np.complex64, np.dtype("U3")]
ARRAYS = st.sampled_from(DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)))
SCALARS = st.sampled_from([np.float64(0.1), np.float32("nan"), np.int32(-3), np.bool_(True), np.uint64(2**64 - 1)])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | ARRAYS | SCALARS
KEYS = st.text().filter(lambda key: key != "__array__")
NESTED = st.recursive(LEAVES, lambda s: st.lists(s, max_size=3) | st.dictionaries(KEYS, s, max_size=3), max_leaves=8)


def same(one, other):
    """Equal in value and type, NaN and the sign of zero included."""
    if isinstance(one, np.ndarray | np.generic):
        return (
            type(one) is type(other)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    if isinstance(one, dict):
        return type(other) is dict and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return type(other) is list and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return (math.isnan(one) and math.isnan(other)) or one.hex() == other.hex()
    return type(one) is type(other) and one == other


@given(NESTED)
@settings(max_examples=150, deadline=None)
def test_round_trip(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("c") / "checkpoint.npz"
    checkpoint.save(path, content)
    assert same(checkpoint.load(path), content)


def test_tuples_become_lists_and_keys_text(tmp_path):
    checkpoint.save(tmp_path / "c.npz", {1: (2, np.arange(2))})
    found = checkpoint.load(tmp_path / "c.npz")
    assert list(found) == ["1"] and found["1"][0] == 2 and found["1"][1].tolist() == [0, 1]


def test_an_optimizer_survives(tmp_path):
    def losses(z):
        return (z**2).sum(axis=1)

    one, other = (CMAESSearch(6, 4, 1.0, 3) for _ in range(2))
    for _ in range(5):
        one.tell(losses(one.ask()))
    checkpoint.save(tmp_path / "c.npz", one.state())
    other.restore(checkpoint.load(tmp_path / "c.npz"))
    for _ in range(5):
        z, same_z = one.ask(), other.ask()
        assert (z == same_z).all()
        one.tell(losses(z))
        other.tell(losses(z))


@pytest.mark.parametrize(
    "content", [object(), {"a": {1, 2}}, [lambda: 0], b"bytes", {"a": 1j}, np.random.RandomState(0)]
)
def test_objects_are_refused(tmp_path, content):
    with pytest.raises(TypeError, match="plain data only"):
        checkpoint.save(tmp_path / "c.npz", content)
    assert list(tmp_path.iterdir()) == []


def test_an_array_of_objects_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="plain data only"):
        checkpoint.save(tmp_path / "c.npz", np.array([{}], dtype=object))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_pickled(tmp_path):
    checkpoint.save(tmp_path / "c.npz", {"a": np.arange(3), "b": [np.float32(1), "text"]})
    with zipfile.ZipFile(tmp_path / "c.npz") as archive:
        for name in archive.namelist():
            np.load(io.BytesIO(archive.read(name)), allow_pickle=False)


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_a_pickle_is_not_loaded(tmp_path):
    tree = np.frombuffer(json.dumps({"__array__": "a0", "scalar": False}).encode(), dtype=np.uint8)
    with (tmp_path / "c.npz").open("wb") as file:
        np.savez(file, tree=tree, a0=np.array([Bomb()], dtype=object))
    (tmp_path / "d.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("c.npz", "d.npz"):
        with pytest.raises(RunError, match="cannot be read"):
            checkpoint.load(tmp_path / name)


def test_truncated_anywhere_is_refused(tmp_path):
    path = tmp_path / "c.npz"
    checkpoint.save(path, {"a": np.arange(5.0), "b": 3})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="cannot be read"):
            checkpoint.load(path)


def test_a_changed_byte_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "c.npz"
    content = {"a": np.arange(5.0), "b": 3}
    checkpoint.save(path, content)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            found = checkpoint.load(path)
        except RunError:
            continue
        assert same(found, content)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"nonsense", b"PK\x05\x06" + b"\0" * 18])
def test_files_that_are_no_checkpoint(tmp_path, content):
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(RunError, match=r"c\.npz cannot be read"):
        checkpoint.load(tmp_path / "c.npz")


def test_a_plain_array_or_a_missing_file_is_no_checkpoint(tmp_path):
    np.save(tmp_path / "c.npy", np.arange(3))
    for name in ("c.npy", "missing.npz"):
        with pytest.raises(RunError, match="cannot be read"):
            checkpoint.load(tmp_path / name)


def test_a_tree_that_names_no_array(tmp_path):
    for tree in ({"__array__": "a9", "scalar": True}, {"__array__": "tree"}, {"__array__": [1]}):
        with (tmp_path / "c.npz").open("wb") as file:
            np.savez(file, tree=np.frombuffer(json.dumps(tree).encode(), dtype=np.uint8))
        with pytest.raises(RunError, match="cannot be read"):
            checkpoint.load(tmp_path / "c.npz")


class Stop(BaseException):
    """Something that no writer expects."""


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path, old, error):
    path = tmp_path / "file.bin"
    if old is not None:
        path.write_bytes(old)

    def write(file):
        file.write(b"half of the new")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["file.bin"])
    assert old is None or path.read_bytes() == old


def test_json_that_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": "ü"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "ü"\n}\n'
    for bad in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises((TypeError, ValueError)):
            write_json(path, bad)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "ü"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_reader_sees_the_old_or_the_new(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"

    write_atomically(path, write)
    assert path.read_bytes() == b"new"
