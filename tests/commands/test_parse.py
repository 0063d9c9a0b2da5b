"""Options as a user writes them: durations, sizes, triples, names and arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from roadshift.commands.parse import (
    key_and_value,
    parse_arguments,
    parse_duration,
    parse_memory,
    parse_names,
    parse_search,
    parse_size,
    parse_triple,
    with_loss_backend,
    with_variant,
)
from roadshift.commands.report import _results
from roadshift.commands.trust import _expiries, _with_reasons
from roadshift.runtime.errors import ConfigError


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


def test_sizes_and_triples_are_read_as_written() -> None:
    assert parse_size("--input-size", "1024x512") == (1024, 512)
    assert parse_size("--input-size", " 32X32 ") == (32, 32)
    assert parse_triple("--mean", "-1,2.5, 1e2") == (-1.0, 2.5, 100.0)


@pytest.mark.parametrize("text", ["1024*512", "1024x", "x512", "-64x64", "64.0x64", "1x2x3", ""])
def test_other_texts_are_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--size '.*': write WIDTHxHEIGHT"):
        parse_size("--size", text)


@pytest.mark.parametrize("text", ["1", "1,2,3,4", "a,b,c", "1;2;3", ""])
def test_other_texts_are_no_triple(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--mean '.*': write three numbers, a,b,c\."):
        parse_triple("--mean", text)


def test_a_side_below_32_pixels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--input-size '31x64': .* at least 32x32"):
        parse_size("--input-size", "31x64")


@pytest.mark.parametrize(
    ("option", "text", "kind"),
    [
        ("--mean", "1,2,inf", "finite"),
        ("--std", "1,2,-3", "positive"),
        ("--std", "0,1,2", "positive"),
    ],
)
def test_numbers_that_no_picture_is_divided_by_are_refused(
    option: str, text: str, kind: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{option} '{text}': write three {kind} numbers"):
        parse_triple(option, text)


def test_names_keep_their_order_and_an_empty_one_stays() -> None:
    assert parse_names("iapc, bn_stats,iapc:paper") == ["iapc", "bn_stats", "iapc:paper"]
    assert parse_names("iapc,") == ["iapc", ""]


def test_arguments_are_read_as_toml_values() -> None:
    entries = ["a=1", "b=[1, 2]", "c=true", "d=word", 'e="1"']
    expected = {"a": 1, "b": [1, 2], "c": True, "d": "word", "e": "1"}
    assert parse_arguments("--argument", entries) == expected


def test_a_dotted_argument_is_a_member_of_a_group() -> None:
    entries = ["args.s=2.0", "args.head.kind=fcn", "city=true"]
    expected = {"args": {"s": 2.0, "head": {"kind": "fcn"}}, "city": True}
    assert parse_arguments("--argument", entries) == expected


@pytest.mark.parametrize("entries", [["a=1", "a=2"], ["a=1", "a.b=2"], ["a.b=2", "a=1"]])
def test_an_argument_is_given_once(entries: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^--argument a: is given twice, alone or as a group"):
        parse_arguments("--argument", entries)


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("a=1", ("a", "1")),
        (" a = b=c", ("a", " b=c")),
        ("a=", ("a", "")),
        ("a", ("a", None)),
        ("=1", ("", "1")),
    ],
)
def test_an_entry_is_parted_at_its_first_equals_sign(
    entry: str, found: tuple[str, str | None]
) -> None:
    assert key_and_value(entry) == found


def test_reasons_and_expiries_are_of_keys_in_lower_case() -> None:
    assert _with_reasons(["3560F49C=it was lost = stolen", "ab"]) == {
        "3560f49c": "it was lost = stolen",
        "ab": "",
    }
    assert _expiries(["3560F49C = Never"]) == {"3560f49c": None}
    assert None not in _expiries(["ab=365D"]).values()
    with pytest.raises(typer.BadParameter, match="write it as ID=DAYS"):
        _expiries(["ab"])


def test_results_of_a_report_are_files_by_their_command(tmp_path: Path) -> None:
    (tmp_path / "a=b.json").write_text("[1]")
    assert _results([f"eval={tmp_path}/a=b.json"]) == {"eval": [1]}
    for entry in ("eval", "=a.json", "a b=c"):
        with pytest.raises(typer.BadParameter, match="write it as COMMAND=FILE"):
            _results([entry])


@pytest.mark.parametrize("entry", ["norm", "a..b=1", "a.=1", ".a=1", "a.1=1", "=1", "1=a"])
def test_what_names_no_argument_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match=f"^--argument '{entry}': write it as key=value"):
        parse_arguments("--argument", [entry])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss_backend": "tiled"}, ""),
        ({"losses": "tiled"}, "--losses is now called --loss-backend"),
    ],
    ids=str,
)
def test_the_old_name_of_an_option_works_and_says_so(
    given: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert with_loss_backend(["seed=1"], **given) == ["seed=1", "loss_backend=tiled"]
    told = capsys.readouterr().err
    assert (said in told) if said else told == ""


def test_values_to_try_are_toml_or_bare_words() -> None:
    assert parse_search(
        [
            "weight_pe=0.2, 0.5,1",
            "warm_start = mixed,target",
            "training.crop_size=[64, 32],[32, 32]",
            'atp.stages=["align"],["align","teach"]',
            "tone=none",
            "final_bn=true,false",
            "empty=",
        ]
    ) == {
        "weight_pe": [0.2, 0.5, 1],
        "warm_start": ["mixed", "target"],
        "training.crop_size": [[64, 32], [32, 32]],
        "atp.stages": [["align"], ["align", "teach"]],
        "tone": ["none"],
        "final_bn": [True, False],
        "empty": [],
    }


@pytest.mark.parametrize("text", ["weight_pe", "=0.2,1", "iapc.=0.2,1", ".weight=1,2"])
def test_what_is_no_search_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--search '.*': write it as key=value,value\.$"):
        parse_search([text])


def test_a_key_that_is_searched_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--search weight_pe: is given twice"):
        parse_search(["weight_pe=1,2", "weight_pe=3,4"])


def test_a_variant_is_a_setting_of_its_method_and_given_once() -> None:
    assert with_variant(["seed=1"], "iapc", None) == ["seed=1"]
    assert with_variant(["seed=1"], "iapc", "paper") == ["seed=1", "iapc.variant=paper"]
    assert with_variant(["ld.variant=paper"], "iapc", "paper")[-1] == "iapc.variant=paper"
    with pytest.raises(ConfigError, match=r"paper and --set iapc\.variant are both given"):
        with_variant([" iapc.variant = reference"], "iapc", "paper")
    with pytest.raises(ConfigError, match=r"^--variant 'best': the variants of iapc are paper, "):
        with_variant([], "iapc", "best")


def test_a_loss_backend_that_there_is_not_is_refused_by_its_option() -> None:
    words = r"^--loss-backend 'cuda' is none of auto, reference, tiled, triton\.$"
    with pytest.raises(ConfigError, match=words):
        with_loss_backend(None, "cuda")


def test_a_bare_none_is_pythons() -> None:
    assert parse_arguments(
        "--argument", ["weights=None", "args.aux=None", "args.s=2", "n=none"]
    ) == {
        "weights": None,
        "args": {"aux": None, "s": 2},
        "n": "none",
    }
    assert parse_arguments("--argument", ['weights="None"']) == {"weights": "None"}
