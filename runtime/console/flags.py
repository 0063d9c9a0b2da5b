"""The flags of the command line for the arguments of the Python functions."""

from __future__ import annotations

from ast import literal_eval

from ..errors import Sentence

# Arguments whose flag is another word; every other's is its name, with hyphens.
_OTHER_WORDS = {
    "allow_networks": "--allow-network",
    "answer_timeout_s": "--answer-timeout",
    "arguments": "--argument",
    "assignments": "--set",
    "baseline": "--compare",
    "camera_fps": "--camera",
    "cpu_share": "--cpu",
    "duration_s": "--duration",
    "evaluation": "--eval",
    "formats": "--to",
    "gate=False": "--gate off",
    "initial": "--init",
    "makers": "--maker",
    "garages": "--garage",
    "memory_budget_mib": "--memory-budget",
    "precisions": "--precision",
    "results": "--result",
    "role": "--as",
    "self_test=False": "--no-self-test",
    "settings": "--set",
    "tool": "--to",
    "time_budget_s": "--time-budget",
    "workspace_mib": "--workspace",
}


def flag_of(name: str, value: str | None = None) -> str:
    """The flag of an argument, with its value where a message gives one.

        older                    --older
        resume, "True"           --resume
        formats, "('onnx',)"     --to onnx

    Args:
        name: of the argument.
        value: as Python writes it; None: the message names the argument alone.
    """
    if f"{name}={value}" in _OTHER_WORDS:
        return _OTHER_WORDS[f"{name}={value}"]
    flag = _OTHER_WORDS.get(name, f"--{name.replace('_', '-')}")
    given = None if value is None else literal_eval(value)
    if given is None or given is True:
        return flag
    words = given if isinstance(given, (tuple, list)) else [given]
    return f"{flag} {','.join(map(str, words))}"


def with_flags(text: str) -> str:
    """The text as the command line tells it: of a `Sentence`, with flags for its arguments."""
    return text.told(flag_of) if isinstance(text, Sentence) else text
