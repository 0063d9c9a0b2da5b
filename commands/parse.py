"""Text of a command line as typed values."""

from __future__ import annotations


def with_losses(
    settings: list[str] | None, losses: str | None, seed: int | None = None
) -> list[str]:
    """``--set``'s settings and ``--losses``, which is one of them by another name.

    Raises:
        ConfigError: one is given twice, ``--seed`` and ``--set seed`` among them.
    """
    from ..adapt.config import check_given_once

    check_given_once(settings or (), losses=losses, seed=seed)
    return [*(settings or ()), *([f"losses={losses}"] if losses else [])]
