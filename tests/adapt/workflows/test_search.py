"""Choosing settings without labels: the grid, the runs, what is published, stopped and refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import roadshift
from roadshift import IapcConfig, TrainingConfig
from roadshift.adapt import RunOptions, adapt_bundle
from roadshift.adapt.judging.choice import SCORES
from roadshift.adapt.methods import resolve_config
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.workflows import search as module
from roadshift.adapt.workflows.adapt_request import adapt as adapt_request
from roadshift.adapt.workflows.search import search_settings
from roadshift.adapt.workflows.search_grid import MOST_CANDIDATES, Candidate, search_grid
from roadshift.cli import app
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.errors import (
    ConfigError,
    FrameError,
    OutputError,
    RefusedError,
    RunInterrupted,
    TrainingError,
)
from roadshift.runtime.verdict import Check, Decision, Verdict
from run_cases import equal, run_options, weights
from typer.testing import CliRunner

SMALL = ("training.batch_size=2", "training.amp=off", "tone=none", "bn_batch_size=3")
ONE_STEP = (*SMALL, "warm_start=target", "iapc.pseudo_labels=online", "training.steps=1")


# --- the grid ------------------------------------------------------------------------------------


def grid(axes: Mapping[str, Any], fixed: Mapping[str, Any] | None = None) -> list[Candidate]:
    return search_grid("iapc", fixed or {}, axes, fixed=fixed or {}, seed=3)


def test_every_combination_is_a_candidate_and_an_own_setting_needs_no_section() -> None:
    found = grid({"weight_pe": [0.2, 1], "training.lr": [0.1, 0.01, 0.001]})
    assert [one.values for one in found] == [
        {"iapc.weight_pe": pe, "training.lr": lr} for pe in (0.2, 1) for lr in (0.1, 0.01, 0.001)
    ]
    assert found[1].title == "iapc.weight_pe=0.2 training.lr=0.01"
    assignments = ["iapc.weight_pe=0.2", "training.lr=0.01"]
    assert found[1].config == resolve_config("iapc", assignments=assignments, seed=3)
    sizes = grid({"training.crop_size": [(48, 32), (32, 32)]})
    assert sizes[0].values == {"training.crop_size": [48, 32]}
    assert sizes[0].config.training.crop_size == (48, 32)
    variants = grid({"variant": ["paper", "roadshift"]}, {"warm_start": "target"})
    assert [one.config.method_config["variant"] for one in variants] == ["paper", "roadshift"]
    assert [one.config.warm_start for one in variants] == ["target", "target"]


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({"wight_pe": [0.2, 1]}, "search wight_pe: iapc has no such setting, it has .*weight_pe"),
        ({"training.rl": [0.2, 1]}, r"search training\.rl=0\.2: .*unknown key 'training\.rl'"),
        ({"weight_pe": [0.2, -1]}, r"search iapc\.weight_pe=-1: .*greater than or equal to 0"),
        ({"ld.class_share": [0.2, 0.1]}, "settings of ld are for runs of it"),
        ({"weight_pe": [0.2]}, "weight_pe: has 1 value, which leaves nothing to choose"),
        ({"weight_pe": []}, "weight_pe: has 0 values"),
        ({"weight_pe": "0.2,1"}, "is no list of values to try"),
        ({"weight_pe": [0.2, 1, 0.2]}, r"tries 0\.2 twice"),
        ({"weight_pe": [0.2, 1], "iapc.weight_pe": [3, 4]}, "name the same setting twice"),
        ({"seed": [0, 1]}, "search seed: only settings of one method with one seed"),
        ({"method": ["ld", "iapc"]}, "search method: only settings of one method"),
        ({"weight_ps": [0.2, 1]}, r"weight_ps: is set besides, to 0\.5"),
        (
            {"weight_pe": list(range(6)), "weight_ia": list(range(1, 7))},
            f"makes 36 combinations, .* at most {MOST_CANDIDATES}",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_in_a_sentence(axes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        grid(axes, {"iapc": {"weight_ps": 0.5}})
    assert str(refused.value).count(". ") == 0


# --- runs, with a gate that says what a test wants -----------------------------------------------


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``gate(("promote", 2.0), ("keep", 4.0))``: what it says of one candidate after the other.

    Decision, and the value of every score.
    """

    def install(*said: tuple[Decision, float]) -> None:
        answers: Iterator[tuple[Decision, float]] = iter(said)

        def judge(incumbent: Bundle, *_: object) -> Verdict:
            decision, value = next(answers)
            checks = tuple(
                Check(name, 1.0, value, 0.0, 0.0, 0.0, True, f"{name}.") for name in SCORES
            )
            return Verdict(decision, f"It is {decision}.", checks, 10, incumbent=incumbent.hash)

        monkeypatch.setattr("roadshift.adapt.workflows.whole_run.judge_run", judge)

    return install


Search = Callable[..., Bundle]


@pytest.fixture
def search(source: Bundle, recording: Path, tmp_path: Path) -> Search:
    """``search(0.2, 1.0, resume=True)``: of these weights of L_PE, a step each, into ``out``."""

    def run(*weights_pe: float, **options: Any) -> Bundle:
        given = [
            Candidate(
                {"iapc.weight_pe": weight},
                resolve_config("iapc", assignments=[*ONE_STEP, f"iapc.weight_pe={weight}"]),
            )
            for weight in weights_pe
        ]
        return search_settings(source, [recording], given, run_options(tmp_path / "out", **options))

    return run


def adapted_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunConfig, RunOptions]]:
    """The runs that a search carries out from now on."""
    seen: list[tuple[RunConfig, RunOptions]] = []

    def adapting(
        source: Bundle, frames: Any, config: RunConfig, options: RunOptions, **more: Any
    ) -> Bundle:
        assert more["gated"]
        seen.append((config, options))
        return adapt_bundle(source, frames, config, options, **more)

    monkeypatch.setattr(module, "adapt_bundle", adapting)
    return seen


@pytest.mark.usefixtures("one_thread")
def test_the_best_candidate_is_published_as_its_own_run_makes_it_with_the_table(
    gate: Callable[..., None], search: Search, source: Bundle, recording: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    gate(("promote", 2.0), ("promote", 3.0), ("keep", 4.5))
    bundle = search(0.0, 1.0, 5.0, note=notes.append)
    assert bundle.path == tmp_path / "out"
    assert not (tmp_path / "out.search").exists()
    opened = open_bundle(tmp_path / "out", allow_networks=source.allow_networks)
    assert opened.manifest.provenance.parent == source.hash
    assert opened.manifest.verdict is not None
    assert opened.manifest.verdict.decision == "promote"
    configuration: Any = opened.manifest.provenance.configuration
    assert configuration["method_config"]["weight_pe"] == 1.0
    table = configuration["search"]
    assert table["chosen"] == {"iapc.weight_pe": 1.0}
    assert [
        (row["settings"]["iapc.weight_pe"], row["decision"], row["scores"]["density"], row["rank"])
        for row in table["candidates"]
    ] == [(0.0, "promote", 2.0, 2.0), (1.0, "promote", 3.0, 1.0), (5.0, "keep", 4.5, None)]
    assert table["candidates"][2]["why"] == "It is keep."
    assert [row["steps"] for row in table["candidates"]] == [1, 1, 1]
    assert "candidate 2 of 3: iapc.weight_pe=1.0" in notes
    assert "chosen: iapc.weight_pe=1.0" in notes
    gate(("promote", 1.0))
    config = resolve_config("iapc", assignments=[*ONE_STEP, "iapc.weight_pe=1.0"])
    alone = adapt_bundle(source, [recording], config, run_options(tmp_path / "alone"), gated=True)
    assert equal(weights(opened), weights(alone))


def test_candidates_share_the_time_alike(
    gate: Callable[..., None], search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = adapted_runs(monkeypatch)
    gate(("ask", 2.0), ("ask", 3.0))
    search(0.0, 1.0, time_budget_s=1000.0)
    shares = [options.time_budget_s for _, options in seen]
    assert shares[0] == shares[1]
    assert shares[0] is not None
    assert 490 < shares[0] <= 500
    assert [options.began for _, options in seen] == [None, None]


def test_where_the_gate_keeps_out_all_nothing_is_published(
    gate: Callable[..., None], search: Search, tmp_path: Path
) -> None:
    gate(("keep", 2.0), ("keep", 3.0))
    refused = r"no candidate is promoted, .*because: It is keep\."
    with pytest.raises(RefusedError, match=refused) as caught:
        search(0.0, 1.0)
    assert caught.value.search is not None
    assert caught.value.search["chosen"] is None
    assert [row["decision"] for row in caught.value.search["candidates"]] == ["keep", "keep"]
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.search/candidate-2").is_dir()
    with pytest.raises(OutputError, match=r"out\.search: holds a search .*resume=True.*overwrite"):
        search(0.0, 1.0)
    gate(("keep", 2.0), ("ask", 3.0))
    assert search(0.0, 1.0, overwrite=True).manifest.verdict is not None
    assert not (tmp_path / "out.search").exists()


def test_a_run_that_fails_is_a_candidate_that_lost(
    gate: Callable[..., None], search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapting = module.adapt_bundle

    def failing(source: Bundle, frames: Any, config: RunConfig, *rest: Any, **more: Any) -> Bundle:
        if config.method_config["weight_pe"] == 0.0:
            raise TrainingError("its losses are not numbers.")
        return adapting(source, frames, config, *rest, **more)

    monkeypatch.setattr(module, "adapt_bundle", failing)
    gate(("promote", 2.0))
    made: Any = search(0.0, 1.0).manifest.provenance.configuration["search"]
    lost, won = made["candidates"]
    assert (lost["decision"], lost["rank"], lost["steps"]) == (None, None, None)
    assert lost["why"] == "The run failed: its losses are not numbers."
    assert won["rank"] == 1.0


def test_a_search_that_is_stopped_goes_on_and_runs_nothing_twice(
    gate: Callable[..., None],
    search: Search,
    adapt: Callable[..., Bundle],
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    gate(("promote", 3.0), ("promote", 2.0))
    with pytest.raises(RunInterrupted):
        search(
            0.0,
            1.0,
            note=notes.append,
            stop_requested=lambda: any("candidate 2" in note for note in notes),
        )
    assert not (tmp_path / "out").exists()
    before = open_bundle(tmp_path / "out.search/candidate-1", allow_networks=["tiny_network"]).hash
    with pytest.raises(TrainingError, match="started with other frames, settings or source model"):
        search(0.0, 2.0, resume=True)
    with pytest.raises(OutputError, match=r"out\.search: holds a search that was not finished"):
        adapt(frames=recording)  # a plain run to the same place
    notes.clear()
    made: list[Bundle] = []

    def publishing(chosen: Bundle, *rest: Any) -> Bundle:
        made.append(chosen)
        return published(chosen, *rest)

    published = module._published
    monkeypatch.setattr(module, "_published", publishing)
    gate(("promote", 2.0))  # asked about the second alone
    result = search(0.0, 1.0, resume=True, note=notes.append)
    assert made[0].hash == before
    assert any("this run has finished" in note for note in notes)
    again = search(0.0, 1.0, resume=True, note=notes.append)  # a gate that were asked would fail
    assert again.hash == result.hash
    assert "this search has finished" in notes[-1]


def test_files_that_are_no_searchs_are_left_alone(search: Search, tmp_path: Path) -> None:
    (tmp_path / "out.search").mkdir()
    (tmp_path / "out.search/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds files that are no search's"):
        search(0.0, 1.0, overwrite=True)
    assert (tmp_path / "out.search/notes.txt").read_text() == "mine"


def test_too_few_frames_to_choose_on_are_refused_before_any_run(
    source: Bundle, frames_dir: Path, recording: Path, tmp_path: Path
) -> None:
    given = [Candidate({}, resolve_config("iapc", seed=seed)) for seed in (0, 1)]
    for frames, most, count in ((frames_dir, None, 6), (recording, 15, 15)):
        says = f"search: {count} frames are too few .* at least 16, and 32 for"
        with pytest.raises(FrameError, match=says):
            search_settings(source, [frames], given, run_options(tmp_path / "out"), max_frames=most)
    assert list(tmp_path.iterdir()) == []


def test_the_incumbent_is_not_written_over(source: Bundle) -> None:
    given = [Candidate({}, resolve_config("iapc", seed=seed)) for seed in (0, 1)]
    options = run_options(source.path, overwrite=True)
    with pytest.raises(OutputError, match="is the incumbent itself"):
        search_settings(source, ["frames"], given, options)


# --- as it is asked for --------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[Candidate]]:
    """The candidates of each search that is asked for; none is run."""
    seen: list[list[Candidate]] = []

    def searching(
        source: Bundle, _: object, candidates: list[Candidate], *__: Any, **___: Any
    ) -> Bundle:
        seen.append(candidates)
        return source

    monkeypatch.setattr("roadshift.adapt.workflows.adapt_request.search_settings", searching)
    monkeypatch.setattr("roadshift.adapt.api.search_settings", searching)
    return seen


def test_a_file_is_searched_over_and_an_assignment_is_not(
    asked: list[list[Candidate]], source: Bundle, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('method = "iapc"\ntone = "none"\n[iapc]\nweight_pe = 0.7\n')

    def request(**changes: Any) -> None:
        options = run_options(tmp_path / "out")
        adapt_request(source.path, ["frames"], options, file=file, **changes)

    request(search={"weight_pe": [0.2, 1.0]}, seed=4)
    assert [one.config.method_config["weight_pe"] for one in asked[0]] == [0.2, 1.0]
    assert {(one.config.tone, one.config.seed) for one in asked[0]} == {("none", 4)}
    for changes, says in (
        ({"assignments": ["iapc.weight_pe=0.1"]}, "is set besides"),
        ({"gate": "off"}, "chooses by what the gate measures, .* or leave the gate on"),
    ):
        with pytest.raises(ConfigError, match=says):
            request(search={"weight_pe": [0.2, 1.0]}, **changes)
    file.write_text('method = "das3_black_box"\n')
    with pytest.raises(ConfigError, match="and there is none; leave it out"):
        request(search={"class_share": [0.2, 1.0]})
    assert len(asked) == 1


def test_the_command_prints_the_table_and_puts_it_into_its_document(
    gate: Callable[..., None], source: Bundle, recording: Path, tmp_path: Path
) -> None:
    settings = [part for entry in ONE_STEP for part in ("--set", entry)]
    command = ["adapt", str(source.path), str(recording), "--method", "iapc", *settings]
    command += ["--search", "weight_pe=0.2,1.0", "--search", "weight_ps=0,0.04"]
    command += ["--device", "cpu", "--allow-network", "tiny_network", "--nice", "0"]
    gate(("promote", 1.0), ("promote", 4.0), ("ask", 5.0), ("keep", 6.0))
    ran = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "a"), "--json"])
    assert ran.exit_code == 0, ran.output
    table = json.loads(ran.stdout)["search"]
    assert table["chosen"] == {"iapc.weight_pe": 0.2, "iapc.weight_ps": 0.04}
    assert [row["decision"] for row in table["candidates"]] == ["promote", "promote", "ask", "keep"]
    ran = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "a"), "--resume"])
    assert "Candidates, judged without labels" in ran.stdout
    (chosen,) = (line.split() for line in ran.stdout.splitlines() if line.split()[-1:] == ["yes"])
    assert chosen[:3] == ["0.20", "0.04", "promote"]
    gate(*[("keep", 1.0)] * 4)
    ran = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "b"), "--json"])
    assert isinstance(ran.exception, RefusedError)
    document = json.loads(ran.stdout)
    assert document["bundle"] is None
    assert len(document["search"]["candidates"]) == 4


def test_python_searches_with_typed_settings(
    asked: list[list[Candidate]], source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    def request(**changes: Any) -> None:
        how: dict[str, Any] = {"out": tmp_path / "out", "method": "iapc", "device": "cpu"}
        how |= {"search": {"weight_pe": [0.2, 1.0]}, "training": TrainingConfig(steps=5)}
        roadshift.adapt_bundle(source, frames_dir, **(how | changes))

    request(settings=IapcConfig(weight_ps=0.5), config={"iapc": {"weight_pe": 3.0}})
    first, second = asked[0]
    assert (first.config.method_config["weight_pe"], first.config.training.steps) == (0.2, 5)
    assert second.config.method_config["weight_ps"] == 0.5
    for changes, says in (
        ({"settings": IapcConfig(weight_pe=0.5)}, "weight_pe: is set besides"),
        ({"gate": False}, "search: chooses by what the gate measures"),
        ({"search": {"weight_pe": [0.2]}}, "leaves nothing to choose"),
    ):
        with pytest.raises(ConfigError, match=says):
            request(**changes)
