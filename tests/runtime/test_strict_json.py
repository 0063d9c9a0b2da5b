"""JSON from strangers: what is read, and what is refused with a reason; pipes, devices and sizes.

CPU only, under a few seconds.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.runtime.regular_files import read_regular_file
from roadshift.runtime.strict_json import DEEPEST, JsonError, parse_json, read_json

whole = st.integers(-(1 << 63), (1 << 64) - 1)
real = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | whole | real | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(value=values, ascii_only=st.booleans(), mark=st.booleans())
def test_reads_back_what_was_written(value: Any, ascii_only: bool, mark: bool) -> None:
    written = json.dumps(value, ensure_ascii=ascii_only)
    content = written.encode("utf-8-sig" if mark else "utf-8")
    assert parse_json(content) == value
    assert parse_json(content.decode()) == value


@settings(deadline=None)
@given(content=st.binary() | text.map(str.encode))
def test_any_bytes_give_a_value_or_a_reason(content: bytes) -> None:
    try:
        parse_json(content)
    except JsonError as error:
        assert str(error)  # noqa: PT017 - any other exception fails the test


@settings(deadline=None)
@given(
    depth=st.integers(1, 3 * DEEPEST) | st.sampled_from([10_000, 200_000]),
    brackets=st.lists(st.sampled_from(["[]", '{"k":}']), min_size=1, max_size=4),
    leaf=st.sampled_from(["", "1", '"text"']),
)
def test_nesting_is_refused_beyond_the_limit_and_only_there(
    depth: int, brackets: list[str], leaf: str
) -> None:
    chain = [brackets[i % len(brackets)] for i in range(depth)]
    leaf = leaf or ("" if chain[-1] == "[]" else "null")
    opened = "".join(pair[:-1] for pair in chain)
    closed = "".join(pair[-1] for pair in reversed(chain))
    if depth <= DEEPEST:
        parse_json(opened + leaf + closed)
    else:
        with pytest.raises(JsonError, match=f"nested deeper than {DEEPEST}"):
            parse_json(opened + leaf + closed)


@settings(deadline=None)
@given(digits=st.integers(21, 6000), minus=st.sampled_from(["", "-"]))
def test_long_whole_numbers_are_refused_shortly(digits: int, minus: str) -> None:
    with pytest.raises(JsonError, match="does not fit in 64 bits") as caught:
        parse_json(f'{{"seed": {minus}{"9" * digits}}}')
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("number", [1 << 64, -(1 << 63) - 1])
def test_whole_numbers_just_beyond_64_bits_are_refused(number: int) -> None:
    with pytest.raises(JsonError, match="64 bits"):
        parse_json(str(number))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e400"])
@pytest.mark.parametrize("frame", ["{}", "[1, {}]", '{{"value": {}}}'])
def test_numbers_that_are_not_finite_are_refused(number: str, frame: str) -> None:
    with pytest.raises(JsonError, match=r"is no number of JSON|is too large"):
        parse_json(frame.format(number))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(JsonError, match="not UTF-8"):
        parse_json('{"name": "Straße"}'.encode(encoding))


@pytest.mark.parametrize("frame", ['"{}"', '["{}"]', '{{"{}": 1}}', '{{"name": ["{}"]}}'])
def test_half_a_character_is_refused(frame: str) -> None:
    with pytest.raises(JsonError, match="half of a character"):
        parse_json(frame.format("\\ud800"))


def test_a_pipe_a_socket_a_device_and_a_folder_are_not_opened(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path, kind in [
            (pipe, "is a named pipe, not a regular file"),
            (link, "is a device, not a regular file"),
            (tmp_path / "socket", "is a socket, not a regular file"),
            (tmp_path, "Is a directory"),
        ]:
            with pytest.raises(OSError, match=kind):
                read_json(path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.write_bytes(b"[]")
    os.truncate(file, 1 << 40)  # sparse: takes no room
    with pytest.raises(OSError, match=r"has 1,099,511,627,776 bytes, and at most 16,777,216"):
        read_json(file)


@pytest.mark.parametrize("size", [0, 1, 4096])
def test_a_file_up_to_the_limit_is_read_whole(tmp_path: Path, size: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * size)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_regular_file(link, size) == b"x" * size
