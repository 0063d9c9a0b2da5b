"""Durations and sizes as a user writes them."""

from __future__ import annotations

import pytest
from roadshift.runtime.errors import ConfigError
from roadshift.runtime.units import parse_duration, parse_memory


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("1h30m", 5400),
        ("1h", 3600),
        ("2h5s", 7205),
        ("1h2m3s", 3723),
        ("0.5m", 30),
        (" 5M ", 300),
    ],
)
def test_durations_in_hours_minutes_and_seconds(text: str, seconds: float) -> None:
    assert parse_duration("--time-budget", text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "20", "m", "0s", "20 minutes", "5m1h", "-5m", "1e3s", "nan"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--time-budget '.*': write a duration such as 90s"):
        parse_duration("--time-budget", text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6GB", 6 * 10**9),
        ("6GiB", 6 * 2**30),
        ("512MiB", 512 * 2**20),
        ("512 mb", 512 * 10**6),
        ("1.5G", 1_500_000_000),
        ("2TiB", 2 * 2**40),
        ("64KiB", 65536),
        ("1000000B", 10**6),
    ],
)
def test_sizes_are_decimal_and_with_an_i_binary(text: str, size: int) -> None:
    assert parse_memory("--memory-budget", text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "0GB", "0", "-1GB", "six GB", "6PB", "6GBs", "1e9", "nan"]
)
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--memory-budget '.*': write a size such as 6GB"):
        parse_memory("--memory-budget", text)


@pytest.mark.parametrize("digits", [13, 400, 5000])
def test_numbers_beyond_all_sense_are_refused_in_short(digits: int) -> None:
    for parse, text in ((parse_memory, "9" * digits + "GB"), (parse_duration, "9" * digits + "s")):
        with pytest.raises(ConfigError, match="--option '9999") as caught:
            parse("--option", text)
        assert len(str(caught.value)) < 150
