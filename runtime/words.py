"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """ "1 tensor", "2 tensors"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def sized(number: int) -> str:
    """Bytes as "1.5 MB", "20 GB"."""
    unit, size = ("GB", 1e9) if number >= 1e9 else ("MB", 1e6)
    return f"{round(number / size, 2):.10g} {unit}"


def shortened(text: str, most: int = 60) -> str:
    """``text`` as a sentence may repeat it: of more than ``most`` characters its start."""
    return text if len(text) <= most else f"{text[: most // 2]}... of {len(text):,} characters"


def progressed(done: int, total: int | None, unit: str) -> str:
    """ "3/8 frames"; without a total "3 frames", or "1 frame" where ``unit`` ends in s."""
    return f"{done}/{total} {unit}" if total is not None else counted(done, unit.removesuffix("s"))


def percent(share: float) -> str:
    """A share of 1 in whole percent; only 0 is "0%" and only 1 is "100%".

    What lies nearer to either than whole percent can say is "below 1%" or "above 99%".
    """
    if 0 < share < 0.005:
        return "below 1%"
    if 0.995 <= share < 1:
        return "above 99%"
    return f"{share:.0%}"
