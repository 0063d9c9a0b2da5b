"""Damage to a run's folder: a flipped bit in any file, any key of any record, what is no JSON."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from roadshift.adapt import adapt_bundle
from roadshift.adapt.run.checkpoint import load_checkpoint, read_tensors, write_tensors
from roadshift.adapt.run.checksums import (
    CHECKSUM,
    DamagedError,
    content_hash,
    read_json_with_checksum,
    with_checksum,
    without_checksum,
    write_json_with_checksum,
)
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.workspace import CHECKPOINT, FRAME_INDEX, HISTORY, RECORD
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.errors import RoadshiftError, RunInterrupted, TrainingError
from run_cases import assert_same, run_options
from safetensors.torch import load_file
from torch import Tensor

Settings = Callable[..., RunConfig]


class Stopped:
    """A run that was stopped after its second step, to be damaged and resumed again and again."""

    def __init__(self, source: Bundle, recording: Path, config: RunConfig, folder: Path) -> None:
        self._source, self._recording, self._config = source, recording, config
        self.out, self.run, self._kept = folder / "out", folder / "out.run", folder / "kept"
        steps: list[int] = []
        whole = self._adapt(folder / "whole")
        self.whole = {name: tensor.clone() for name, tensor in whole.items()}
        with pytest.raises(RunInterrupted):
            self._adapt(
                self.out,
                report=lambda progress: steps.append(progress.done),
                stop_requested=lambda: steps[-1:] == [2],
            )
        self.run.rename(self._kept)
        self.files = sorted(
            str(path.relative_to(self._kept)) for path in self._kept.rglob("*") if path.is_file()
        )

    def _adapt(self, out: Path, **options: Any) -> dict[str, Tensor]:
        job = run_options(out, **options)
        bundle = adapt_bundle(self._source, [self._recording], self._config, job, gated=True)
        return load_file(bundle.path / "model.safetensors")

    def resume(self, damage: Callable[[Path], None]) -> tuple[str | None, list[str]]:
        """The sentence with which the damaged run is refused, if it is; the notes.

        A run that goes on must end as if nothing had been damaged.
        """
        for path in (self.out, self.run):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self._kept, self.run)
        damage(self.run)
        notes: list[str] = []
        try:
            assert_same(self._adapt(self.out, resume=True, note=notes.append), self.whole)
        except RoadshiftError as error:
            assert not self.out.exists()
            return str(error), notes
        return None, notes


@pytest.fixture(scope="module")
def stopped(
    source: Bundle,
    recording: Path,
    settings: Settings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Stopped:
    """With every kind of file that a run of a gated method keeps; on one thread, as the tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    config = settings(
        "iapc.pseudo_labels=offline", "teacher_cache=true", "watch.every=1", "training.steps=3"
    )
    try:
        return Stopped(source, recording, config, tmp_path_factory.mktemp("damage"))
    finally:
        torch.set_num_threads(before)


# --- flipped bits --------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_a_run_keeps_every_kind_of_file(stopped: Stopped) -> None:
    kinds = {CHECKPOINT, HISTORY, RECORD, FRAME_INDEX, "frames.rgb", "stage-0.safetensors"}
    assert kinds | {"teacher.f16", "teacher.json"} <= set(stopped.files)
    assert any(name.startswith("pseudo_labels-") for name in stopped.files)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["first", "middle", "last", "random"])
def test_a_flipped_bit_in_any_file_is_named_and_changes_no_result(
    kind: str, stopped: Stopped
) -> None:
    rng = random.Random(kind)
    pseudo = [name for name in stopped.files if name.startswith("pseudo_labels-")]
    names = [name for name in stopped.files if name not in pseudo] + rng.sample(pseudo, 2)
    for name in names:

        def damage(run: Path, name: str = name) -> None:
            path = run / name
            content = bytearray(path.read_bytes())
            places = {"first": 0, "middle": len(content) // 2, "last": -1}
            place = places.get(kind, rng.randrange(len(content)))
            content[place] ^= 1 << rng.randrange(8)
            path.write_bytes(content)

        sentence, notes = stopped.resume(damage)
        if sentence is None:  # made again, or nothing of it was read: a look that is not the best
            rebuilt = name.startswith(("pseudo_labels-", "teacher"))
            assert not rebuilt or any("damaged" in note for note in notes), name
            assert rebuilt or name.startswith(("look-", "held", "tone")), name
        else:
            assert name in sentence, (name, sentence)
            assert "\n" not in sentence


@pytest.mark.usefixtures("one_thread")
def test_a_file_that_is_cut_or_missing_is_named_or_made_again(stopped: Stopped) -> None:
    for name in (CHECKPOINT, HISTORY, RECORD, FRAME_INDEX, "frames.rgb", "stage-0.safetensors"):
        for keep in (None, 0, 9, -1):

            def damage(run: Path, name: str = name, keep: int | None = keep) -> None:
                if keep is None:
                    (run / name).unlink()
                else:
                    (run / name).write_bytes((run / name).read_bytes()[:keep])

            sentence, _ = stopped.resume(damage)
            begun_anew = name in (CHECKPOINT, FRAME_INDEX) and keep is None
            assert (sentence is None) == begun_anew, (name, keep)
            assert sentence is None or name in sentence


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_in_a_files_place_is_named(
    make: Callable[[Path], None], stopped: Stopped
) -> None:
    for name in (CHECKPOINT, HISTORY, RECORD, FRAME_INDEX, "frames.rgb", "stage-0.safetensors"):

        def damage(run: Path, name: str = name) -> None:
            (run / name).unlink()
            make(run / name)

        sentence, _ = stopped.resume(damage)
        assert sentence is not None
        assert name in sentence


# --- records -------------------------------------------------------------------------------------

ODD: list[Any] = [None, -1, 10**30, 1.5, "x", "", [], {}, [[]], {"a": {}}, True]


def mutations(record: dict[str, Any]) -> Iterator[tuple[str, Callable[[dict[str, Any]], None]]]:
    """Every key of a record removed, or of another kind, also one level down."""

    def remove(at: tuple[Any, ...]) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            for key in at[:-1]:
                document = document[key]
            del document[at[-1]]

        return change

    def put(at: tuple[Any, ...], value: Any) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            for key in at[:-1]:
                document = document[key]
            document[at[-1]] = value

        return change

    places: list[tuple[Any, ...]] = [(key,) for key in record]
    for key, value in record.items():
        if isinstance(value, dict):
            places += [(key, inner) for inner in value]
        elif isinstance(value, list) and value:
            places.append((key, 0))
    for place in places:
        yield f"{place} removed", remove(place)
        for value in ODD:
            yield f"{place} = {value!r}", put(place, value)
    yield "a key more", put(("extra",), 1)


def refusal(read: Callable[[], Any]) -> str | None:
    """The sentence with which ``read`` is refused; None if it goes through."""
    try:
        read()
    except RoadshiftError as error:
        return str(error)
    return None


def test_every_key_of_a_runs_state_is_checked(stopped: Stopped, tmp_path: Path) -> None:
    stopped.resume(lambda _: None)
    path = tmp_path / CHECKPOINT
    shutil.copy(stopped._kept / CHECKPOINT, path)
    tensors, metadata = read_tensors(path)
    state = json.loads(metadata["state"])
    refused = total = 0
    for what, change in mutations(state):
        document = copy.deepcopy(state)
        change(document)
        write_tensors(path, {}, {"state": json.dumps(document)})
        sentence = refusal(lambda: load_checkpoint(path))
        refused += sentence is not None
        total += 1
        assert sentence is not None or not what.endswith("removed") or what.count("'") > 2, what
        assert sentence is None or ("delete" in sentence and "\n" not in sentence), what
    assert refused > 0.7 * total
    assert tensors


@pytest.mark.parametrize(
    "state",
    ["", "{", "[1]", "null", "[" * 100_000, '{"stage": ' + "9" * 6000 + "}", "NaN", '{"done": 1}'],
    ids=lambda state: state[:12],
)
def test_a_state_that_is_no_state_is_a_sentence(state: str, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    write_tensors(path, {}, {"state": state})
    with pytest.raises(TrainingError, match="not a checkpoint of this version"):
        load_checkpoint(path)


@pytest.mark.usefixtures("one_thread")
def test_a_state_whose_watch_or_tensors_do_not_fit_is_a_sentence(stopped: Stopped) -> None:
    def with_state(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
        def damage(run: Path) -> None:
            tensors, metadata = read_tensors(run / CHECKPOINT)
            state = json.loads(metadata["state"])
            change(state["watch"])
            write_tensors(run / CHECKPOINT, tensors, {"state": json.dumps(state)})

        return damage

    _, metadata = read_tensors(stopped._kept / CHECKPOINT)
    watch = json.loads(metadata["state"])["watch"]
    refused = total = 0
    for what, change in mutations(watch):
        if not any(value in what for value in ("removed", "= None", "= 'x'", "= {}")):
            continue  # each is a run
        sentence, _ = stopped.resume(with_state(change))
        refused += sentence is not None
        total += 1
        assert sentence is None or CHECKPOINT in sentence, (what, sentence)
    assert refused > total / 2

    def fewer_tensors(run: Path) -> None:
        tensors, metadata = read_tensors(run / CHECKPOINT)
        tensors.pop(next(name for name in tensors if name.startswith("student.")))
        write_tensors(run / CHECKPOINT, tensors, {"state": metadata["state"]})

    def odd_optimizer(run: Path) -> None:
        tensors, metadata = read_tensors(run / CHECKPOINT)
        name = next(name for name in tensors if name.startswith("optimizer."))
        tensors["optimizer.many.key"] = tensors.pop(name)
        write_tensors(run / CHECKPOINT, tensors, {"state": metadata["state"]})

    for damage in (fewer_tensors, odd_optimizer):
        sentence, _ = stopped.resume(damage)
        assert sentence is not None
        assert f"{CHECKPOINT}: does not fit this run" in sentence


@pytest.mark.parametrize("name", [RECORD, FRAME_INDEX])
@pytest.mark.usefixtures("one_thread")
def test_every_key_of_a_record_is_checked(name: str, stopped: Stopped) -> None:
    record = read_json_with_checksum(stopped._kept / name)
    refused = total = 0
    for what, change in mutations(record):
        if not any(value in what for value in ("removed", "= None", "= 'x'", "= {}")):
            continue  # each is a run

        def damage(run: Path, change: Callable[[dict[str, Any]], None] = change) -> None:
            document = copy.deepcopy(record)
            change(document)
            write_json_with_checksum(run / name, document)

        sentence, _ = stopped.resume(damage)
        refused += sentence is not None
        total += 1
    assert refused > total / 3


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", [RECORD, FRAME_INDEX])
def test_what_is_no_record_with_its_checksum_is_a_sentence(name: str, stopped: Stopped) -> None:
    whole = (stopped._kept / name).read_text(encoding="utf-8")
    texts = ["", "{", "null", "[]", "[" * 100_000, "9" * 6000, "\x00", "{}", '{"sha256": 3}']
    texts += [whole[:-9], whole.replace('"size"', '"seize"').replace('"threads"', '"dreads"')]
    for text in texts:

        def replaced(run: Path, text: str = text) -> None:
            (run / name).write_text(text)

        sentence, _ = stopped.resume(replaced)
        assert sentence is not None, text[:20]
        assert name in sentence
        assert "delete" in sentence

    def pipe(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    sentence, _ = stopped.resume(pipe)
    assert sentence is not None
    assert "named pipe" in sentence


# --- checksums -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", bytes(1000), b"\nsha256:" * 9])
def test_content_with_a_checksum_comes_back_and_any_change_is_found(content: bytes) -> None:
    whole = with_checksum(content)
    assert without_checksum(whole) == content
    for place in range(0, len(whole), max(1, len(whole) // 50)):
        changed = bytearray(whole)
        changed[place] ^= 4
        with pytest.raises(DamagedError):
            without_checksum(bytes(changed))
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        with pytest.raises(DamagedError):
            without_checksum(whole[:cut])


def test_a_record_comes_back_without_its_checksum(tmp_path: Path) -> None:
    record = {"a": [1, 2.5, None], "b": {"ü": "\n"}}
    write_json_with_checksum(tmp_path / "r.json", record)
    assert read_json_with_checksum(tmp_path / "r.json") == record
    assert len(json.loads((tmp_path / "r.json").read_text())[CHECKSUM]) == 64


def test_the_hash_of_files_follows_their_names_order_and_bytes(tmp_path: Path) -> None:
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    for path, content in ((one, b"a"), (other, b"b"), (third, b"a")):
        path.write_bytes(content)
    hashes = {content_hash(files) for files in ([one], [other], [third], [one, other], [])}
    assert len(hashes) == 5
    assert content_hash([one, other]) != content_hash([other, one])
    with pytest.raises(FileNotFoundError):
        content_hash([tmp_path / "nowhere"])


def test_gigabytes_are_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from roadshift.adapt.run import checksums

    monkeypatch.setattr(checksums, "LONG_WORK_BYTES", 10)
    (tmp_path / "f").write_bytes(bytes(20))
    notes: list[str] = []
    stops: list[int] = []
    content_hash([tmp_path / "f"] * 3, Events(notes.append, stop_requested=lambda: stops.append(1)))
    assert notes == ["reading 3 files, 0.0 GiB, for their SHA-256"]
    assert len(stops) == 3
