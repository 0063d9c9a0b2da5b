"""Two slots: installing, trying, committing, rolling back, and kills at every step."""

import io
import pickle
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from fleets import HEALTHY, Fleet, StandInPlans
from kill_points import EVENTS, killed_at
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.errors import (
    BundleError,
    EngineError,
    SignatureError,
    SlotError,
    UnhealthyError,
)
from roadshift.runtime.signing import (
    Trust,
    sign_bundle,
)
from roadshift.runtime.signing.trust_updates import Changes, changed
from roadshift.runtime.slots import (
    Health,
    build_plans,
    commit,
    create_slots,
    install,
    open_slots,
    read_audit,
    roll_back,
    start_of_run,
    try_model,
)
from roadshift.runtime.slots.changes import end_trial, set_clock
from roadshift.runtime.slots.health import Trials
from roadshift.runtime.slots.plan_building import is_whole
from roadshift.runtime.slots.self_test import SELF_TEST_NAME, self_test_of
from roadshift.runtime.slots.state import plan_file_name
from roadshift.runtime.verdict import Verdict
from signed_bundles import small_bundle

ILL = Health(False, ("car has lost 99 % of the area that it had before",), 100, 5.0)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_model_is_installed_tried_and_committed(fleet: Fleet) -> None:
    first = fleet.running(1)
    second = fleet.installed(2)
    state = fleet.store.state()
    assert (state.active, state.slots["a"].hash) == ("a", first.hash)
    assert (state.slots["b"].hash, state.slots["b"].condition) == (second.hash, "installed")
    try_model(fleet.store, fleet.trust)
    start = start_of_run(fleet.store, fleet.trust)
    assert start.active is not None
    assert start.trial is not None
    assert (start.active.hash, start.trial.hash) == (first.hash, second.hash)
    after = commit(fleet.store, HEALTHY)
    assert (after.active, after.trial, after.floor) == ("b", None, 2)
    assert fleet.events() == [
        *("created", "installed", "tried", "committed"),
        *("installed", "tried", "started", "committed"),
    ]
    third = fleet.installed(3)  # takes the place of the first
    assert fleet.store.state().slots["a"].hash == third.hash
    assert not fleet.store.folder(first.hash).exists()


def test_an_unhealthy_model_is_rolled_back(fleet: Fleet) -> None:
    first = fleet.running(1)
    fleet.installed(2)
    try_model(fleet.store, fleet.trust)
    with pytest.raises(UnhealthyError, match=r"slot b was rolled back: car has lost 99 %"):
        commit(fleet.store, ILL)
    state = fleet.store.state()
    assert (state.active, state.trial, state.slots["b"].condition) == ("a", None, "failed")
    with pytest.raises(SlotError, match="failed before"):
        try_model(fleet.store, fleet.trust)
    started = start_of_run(fleet.store, fleet.trust).active
    assert started is not None
    assert started.hash == first.hash


def test_a_hand_does_not_roll_back_to_a_damaged_model(fleet: Fleet) -> None:
    first, second = fleet.running(1), fleet.running(2)
    path = fleet.store.folder(first.hash) / "model.onnx"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    for meant in (None, second.hash):
        with pytest.raises(BundleError, match=r"model\.onnx: was changed"):
            roll_back(fleet.store, "by hand", model=meant)
    started = start_of_run(fleet.store, fleet.trust).active
    assert started is not None
    assert started.hash == second.hash
    install(fleet.store, first.path, fleet.trust)  # makes it whole
    assert roll_back(fleet.store, "by hand").active == "a"


def test_a_model_that_never_becomes_healthy_loses_its_starts(fleet: Fleet) -> None:
    fleet.running(1)
    fleet.installed(2)
    try_model(fleet.store, fleet.trust)
    for left in (2, 1, 0):
        start = start_of_run(fleet.store, fleet.trust)
        assert start.trial is not None
        assert start.state.trial is not None
        assert start.state.trial.starts_left == left
    notes = list[str]()
    assert start_of_run(fleet.store, fleet.trust, note=notes.append).trial is None
    reason = "it never became healthy in 3 starts"
    assert fleet.store.state().slots["b"].reason == reason
    assert notes == [f"{fleet.store.path}: slot b was rolled back: {reason}."]


def test_a_start_says_that_it_ends_a_trial_that_is_damaged(fleet: Fleet) -> None:
    fleet.running(1)
    second = fleet.installed(2)
    try_model(fleet.store, fleet.trust)
    (fleet.store.folder(second.hash) / "model.onnx").write_bytes(b"")
    notes = list[str]()
    assert start_of_run(fleet.store, fleet.trust, note=notes.append).trial is None
    (said,) = notes
    assert said.startswith(f"{fleet.store.path}: slot b was rolled back: ")
    assert "has 0 bytes and manifest.json says" in said


def test_the_end_of_a_trial_rolls_nothing_else_back(fleet: Fleet) -> None:
    fleet.running(1)
    second = fleet.installed(2)
    try_model(fleet.store, fleet.trust)
    commit(fleet.store, HEALTHY)  # just before an updater ends the trial
    assert end_trial(fleet.store, "the updater gave up").active == "b"
    assert fleet.store.state().slots["b"].hash == second.hash
    fleet.installed(3)
    try_model(fleet.store, fleet.trust)
    assert end_trial(fleet.store, "the updater gave up").slots["a"].condition == "failed"


def test_a_person_or_a_damaged_file_leads_back_to_the_model_before(fleet: Fleet) -> None:
    first, second = fleet.running(1), fleet.running(2)
    state = roll_back(fleet.store, "brakes for shadows")
    assert (state.active, state.slots["b"].reason) == ("a", "brakes for shadows")
    with pytest.raises(SlotError, match="no good model before"):
        roll_back(fleet.store, "again")
    with pytest.raises(SignatureError, match="has version 2, and nothing before 3"):
        install(fleet.store, fleet.folder / "v2", fleet.trust)
    fleet.running(3)
    model = fleet.store.folder(fleet.store.state().slots["b"].hash) / "model.onnx"
    model.write_bytes(bytes(model.stat().st_size))
    start = start_of_run(fleet.store, fleet.trust)
    assert start.active is not None
    assert start.active.hash == first.hash
    assert "was changed after it was written" in fleet.store.state().slots["b"].reason
    assert second.hash not in {m.hash for m in fleet.store.state().slots.values()}


def test_the_model_before_says_that_it_runs_and_why(fleet: Fleet) -> None:
    first, second = fleet.running(1), fleet.running(2)
    (fleet.store.folder(second.hash) / "model.onnx").write_bytes(b"")
    notes = list[str]()
    start = start_of_run(fleet.store, fleet.trust, note=notes.append)
    assert start.active is not None
    assert start.active.hash == first.hash
    (note,) = notes
    assert "has 0 bytes and manifest.json says" in note
    assert note.endswith("The model before runs, in slot a.")


def test_what_may_not_be_installed(fleet: Fleet, tmp_path: Path) -> None:
    first = fleet.running(5)
    cases: list[tuple[Path, type[Exception], str]] = [
        (first.path, SlotError, "is in slot a already, with these signatures"),
        (fleet.model(4).path, SignatureError, "nothing before 6"),
    ]
    unsigned = small_bundle(tmp_path / "unsigned", seed=8, self_test=True)
    cases.append((unsigned.path, SignatureError, "is not signed"))
    bare = small_bundle(tmp_path / "bare", seed=9)
    sign_bundle(bare, fleet.key, version=9)
    cases.append((bare.path, SlotError, "brings no self-test"))
    refused = fleet.model(10, verdict=Verdict("keep", "car is gone.", (), 8, 1.0, first.hash))
    cases.append((refused.path, SlotError, "its own gate refused it: car is gone"))
    other = fleet.model(11, classes=3)
    cases.append((other.path, SlotError, "has other classes"))
    wrong = fleet.model(12, wrong_labels=True)
    cases.append((wrong.path, EngineError, r"gives \d+.* % of the labels"))
    before = fleet.store.state()
    for path, error, sentence in cases:
        with pytest.raises(error, match=sentence):
            install(fleet.store, path, fleet.trust)
    assert fleet.store.state().slots == before.slots
    assert fleet.events()[-len(cases) :] == ["refused"] * len(cases)
    assert {p.name for p in (fleet.store.path / "models").iterdir()} == {first.hash}
    install(fleet.store, bare.path, fleet.trust, self_test=False)


def test_a_gate_that_could_not_tell_leaves_it_to_a_person(fleet: Fleet) -> None:
    fleet.running(1)
    ask = Verdict("ask", "4 frames are too few.", (), 4, 1.0, None)
    install(fleet.store, fleet.model(2, verdict=ask).path, fleet.trust)
    with pytest.raises(SlotError, match="4 frames are too few"):
        try_model(fleet.store, fleet.trust)
    assert try_model(fleet.store, fleet.trust, accept_ask=True).trial is not None


def test_a_model_revoked_on_the_road_no_longer_starts(fleet: Fleet) -> None:
    fleet.running(1)
    second = fleet.running(2)
    revoking = Trust(
        fleet.trust.path, changed(fleet.trust, Changes(revoke_models={second.hash: "recall"}))
    )
    start = start_of_run(fleet.store, revoking)
    assert start.state.active == "a"
    assert "revoked (recall)" in start.state.slots["b"].reason


def test_a_clock_set_back_makes_nothing_valid_again(fleet: Fleet) -> None:
    with fleet.store.changing() as state:
        later = fleet.store.change(state, "created", {}, latest="2999-01-01T00:00:00Z")
        assert fleet.store.now(later).year >= 2026
    data = later.model_copy(update={"latest": "2999-01-01T00:00:00Z"})
    assert fleet.store.now(data).year == 2999


def test_a_clock_that_was_ahead_is_told_and_can_be_forgiven(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.running(1)
    ends = datetime.now(timezone.utc) + timedelta(days=365)
    second = fleet.model(2)
    sign_bundle(second, fleet.key, version=2, expires=ends)
    ahead = datetime(2100, 1, 1, tzinfo=timezone.utc)
    with monkeypatch.context() as wrong:
        wrong.setattr(type(fleet.store), "now", lambda *_: ahead)
        with pytest.raises(SignatureError, match="expired on"):
            install(fleet.store, second.path, fleet.trust)  # and the slots have seen that time
    with pytest.raises(SignatureError, match=r"have seen 2100-01-01T00:00:00Z, .*slot clock"):
        install(fleet.store, second.path, fleet.trust)
    set_clock(fleet.store, "a wrong clock")
    install(fleet.store, second.path, fleet.trust)
    assert fleet.events()[-2:] == ["clock set", "installed"]
    fleet.store.audit()


def test_a_changed_audit_file_is_found(fleet: Fleet) -> None:
    fleet.running(1)
    path = fleet.store.path / "audit.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for content, sentence in (
        (whole.replace(b'"installed"', b'"uninstall"'), "line 3 does not follow"),
        (whole.replace(b'"committed"', b'"cancelled"'), "does not end with the last change"),
        (b"".join(lines[:1] + lines[2:]), "line 2 does not follow"),
    ):
        path.write_bytes(content)
        with pytest.raises(SlotError, match=sentence):
            fleet.store.audit()
    path.write_bytes(b"".join(lines[:-2]))
    with pytest.raises(SlotError, match="changed or cut by someone else"):
        roll_back(fleet.store, "")
    for cut in range(len(lines[-1])):  # a power cut within the last line
        path.write_bytes(whole[: len(whole) - len(lines[-1]) + cut])
        with fleet.store.changing():
            assert path.read_bytes() == whole


def test_two_programs_do_not_change_slots_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadshift.runtime.slots.store.PATIENCE_S", 0.05)
    fleet.installed(1)
    with fleet.store.changing(), pytest.raises(SlotError, match="another program is changing"):
        try_model(fleet.store, fleet.trust)
    with fleet.store.installing():
        with pytest.raises(SlotError, match="another program is changing"):
            install(fleet.store, fleet.model(2).path, fleet.trust)
        try_model(fleet.store, fleet.trust)  # goes on while another installs


def test_folders_that_are_no_slots_are_sentences(tmp_path: Path, fleet: Fleet) -> None:
    with pytest.raises(SlotError, match="holds no slots; make them with roadshift slot init"):
        open_slots(tmp_path / "none")
    with pytest.raises(SlotError, match="holds slots already"):
        create_slots(fleet.store.path)
    with pytest.raises(SlotError, match="install a model first"):
        try_model(fleet.store, fleet.trust)
    with pytest.raises(SlotError, match="no model was committed"):
        start_of_run(fleet.store, fleet.trust)
    path = fleet.store.path / "state.json"
    good = path.read_text()
    for text in (
        "{",
        good.replace('"active": null', '"active": "a"'),
        good.replace("floor", "flor"),
    ):
        path.write_text(text)
        with pytest.raises(SlotError, match=r"state\.json: "):
            open_slots(fleet.store.path)


def test_health_sees_a_class_that_vanishes_and_a_slow_engine() -> None:
    labels = np.zeros((20, 50), np.uint8)
    labels[:2] = 1
    trials = Trials(("road", "car", "train"), p99_ms=10)
    assert not trials.health().passed
    trials.add(labels, labels, 5.0)
    assert trials.health().passed
    for _ in range(30):
        trials.add(labels, np.zeros((10, 25), np.uint8), 5.0)
    assert trials.health().sentences == ("car has lost 97 % of the area that it had before",)
    slow = Trials(("road", "car"), p99_ms=10)
    slow.add(None, labels, 30.0)
    assert slow.health().sentences == ("a frame takes 30.0 ms (p99), and at most 10 are allowed",)


# --- kills ---------------------------------------------------------------------------------------

Step = Callable[[Fleet], object]
STEPS: dict[str, tuple[Step, Step]] = {  # what comes before, and what is killed
    "install": (
        lambda f: (f.running(1), f.model(2)),
        lambda f: install(f.store, f.folder / "v2", f.trust),
    ),
    "install over": (
        lambda f: (f.running(1), f.running(2), f.model(3)),
        lambda f: install(f.store, f.folder / "v3", f.trust),
    ),
    "install with a plan": (
        lambda f: (f.running(1), f.model(2)),
        lambda f: install(f.store, f.folder / "v2", f.trust, plans=StandInPlans()),
    ),
    "renew": (
        lambda f: (f.running(1), f.running(2), f.signed_again(2, 5)),
        lambda f: install(f.store, f.folder / "v2", f.trust),
    ),
    "build plans": (
        lambda f: (f.running(1), f.running(2)),
        lambda f: build_plans(f.store, f.trust, StandInPlans()),
    ),
    "try": (lambda f: (f.running(1), f.installed(2)), lambda f: try_model(f.store, f.trust)),
    "start": (
        lambda f: (f.running(1), f.installed(2), try_model(f.store, f.trust)),
        lambda f: start_of_run(f.store, f.trust),
    ),
    "commit": (
        lambda f: (f.running(1), f.installed(2), try_model(f.store, f.trust)),
        lambda f: commit(f.store, HEALTHY),
    ),
    "roll back a trial": (
        lambda f: (f.running(1), f.installed(2), try_model(f.store, f.trust)),
        lambda f: roll_back(f.store, "no"),
    ),
    "roll back": (lambda f: (f.running(1), f.running(2)), lambda f: roll_back(f.store, "no")),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_kill_at_any_call_leaves_a_model_to_run(fleet: Fleet, name: str) -> None:
    """Every 23rd point here; ``python tests/support/slot_kills.py`` goes through all of them."""
    before, step = STEPS[name]
    before(fleet)
    kills = kill_everywhere(fleet, step, every=23)
    assert kills > 1


def kill_everywhere(fleet: Fleet, step: Step, every: int = 1, offset: int = 0) -> int:
    """Kill the step at each of its calls, from the same state, and check what is left."""
    clean = fleet.folder / "clean"
    shutil.copytree(fleet.store.path, clean)
    kills, number = 0, offset
    outcomes = set()
    while True:
        hit = False
        for when in EVENTS:
            hit = killed_at(number, when, lambda: step(fleet)) or hit
            outcomes.add(check_whole(fleet))
            kills += hit
            shutil.rmtree(fleet.store.path)
            shutil.copytree(clean, fleet.store.path)
        if not hit:
            shutil.rmtree(clean)
            return kills
        number += every


def check_whole(fleet: Fleet) -> int:
    """Assert that a run starts, that every slot is a whole bundle, and that the audit is whole."""
    start = start_of_run(fleet.store, fleet.trust)
    assert start.active is not None
    state = fleet.store.state()
    for installed in state.slots.values():
        assert open_bundle(fleet.store.folder(installed.folder)).hash == installed.hash
    records = list(read_audit(fleet.store.path))
    assert records[-1].event == state.record["event"]
    assert len(records) == state.generation + 1
    left = {path.name for path in (fleet.store.path / "models").iterdir()}
    assert left - {".incoming"} == {installed.folder for installed in state.slots.values()}
    plans = [one.plan for one in state.slots.values() if one.plan is not None]
    assert all(is_whole(fleet.store, plan) for plan in plans)
    found = {path.name for path in (fleet.store.path / "plans").glob("*.plan")}
    assert found == {plan_file_name(plan) for plan in plans}
    return state.generation


def test_a_full_disk_changes_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.running(1)
    second = fleet.model(2)
    before = fleet.store.state()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="the disk is full"):
        install(fleet.store, second.path, fleet.trust)
    monkeypatch.undo()
    assert fleet.store.state() == before
    check_whole(fleet)


def test_a_bundle_whose_model_was_exchanged_is_refused(fleet: Fleet) -> None:
    fleet.running(1)
    second = fleet.model(2)
    stolen = second.path / "model.onnx"

    stolen.write_bytes(bytes(stolen.stat().st_size))
    with pytest.raises(BundleError, match="was changed after it was written"):
        install(fleet.store, second.path, fleet.trust)


@pytest.mark.parametrize("kind", ["noise", "pickle", "one array", "cut", "zeros within"])
def test_what_is_no_self_test_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    bundle = small_bundle(tmp_path / "bundle", self_test=True)
    good = (bundle.path / SELF_TEST_NAME).read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros(9))
    content = {
        "noise": b"x" * 99,
        "pickle": pickle.dumps([1]),
        "one array": array.getvalue(),
        "cut": good[:-30],
        "zeros within": good[:60] + bytes(40) + good[100:],
    }[kind]
    monkeypatch.setattr(Bundle, "content", lambda *_: content)
    with pytest.raises(BundleError, match=r"is no self-test \(.*\); export") as caught:
        self_test_of(bundle)
    assert "allow_pickle" not in str(caught.value)
