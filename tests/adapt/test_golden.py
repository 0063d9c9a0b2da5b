"""The golden run, `benchmarks/golden.py`: the same bits each time, and a changed one is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from roadshift.runtime.bundle import Bundle
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import golden

METHOD = "entmin"


def changed_by_one_bit(file: Path) -> None:
    """Turn the last bit of a weight."""
    weights = load_file(file)
    weights["classifier.weight"].view(-1)[:1].view(dtype=torch.int32).bitwise_xor_(1)
    save_file(weights, file)


@pytest.mark.usefixtures("one_thread")
def test_the_bits_are_the_same_each_time_and_a_changed_one_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path / "before.txt"
    assert golden.main(["--methods", METHOD]) == 0
    before.write_text(capsys.readouterr().out)
    by_reference, by_tiles = before.read_text().splitlines()
    assert by_reference.startswith(f"{METHOD} reference ")
    adapt = golden.adapted

    def changing(source: Bundle, folder: Path, method: str, backend: str) -> Bundle:
        bundle = adapt(source, folder, method, backend)
        if backend == "tiled":
            changed_by_one_bit(bundle.path / "model.safetensors")
        return bundle

    monkeypatch.setattr(golden, "adapted", changing)
    assert golden.main(["--methods", METHOD, "--against", str(before)]) == 1
    again = capsys.readouterr()
    assert again.out.splitlines()[0] == by_reference
    differs = [line for line in again.err.splitlines() if " differs: " in line]
    assert differs == [f"{METHOD} tiled differs: it was {by_tiles.rpartition(' ')[2]}"]
