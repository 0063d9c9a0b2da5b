"""Waiting threads: the user's choice, the kernel's account, ONNX Runtime's option."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from roadshift.runtime.engines.onnx.session import session_options
from roadshift.runtime.probes import core_watch
from roadshift.runtime.probes import waiting as waiting_module
from roadshift.runtime.probes.waiting import may_spin, users_choice, waited_for_core_s, waiting


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value", "spins"),
    [
        ("OMP_WAIT_POLICY", "ACTIVE", True),
        ("OMP_WAIT_POLICY", "PASSIVE", False),
        ("GOMP_SPINCOUNT", "300000", True),
        ("KMP_BLOCKTIME", "200", True),
    ],
)
def test_the_users_choice_counts_for_onnx_runtime_too(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, spins: bool
) -> None:
    monkeypatch.setenv(name, value)
    assert users_choice() == f"{name}={value}"
    assert waiting() == f"as {name}={value} says"
    assert may_spin() is spins
    entry = session_options(1).get_session_config_entry("session.intra_op.allow_spinning")
    assert entry == str(int(spins))


@pytest.mark.parametrize("scarce", [False, True])
def test_without_a_choice_sessions_spin_unless_cores_are_scarce(
    monkeypatch: pytest.MonkeyPatch, scarce: bool
) -> None:
    assert users_choice() is None
    monkeypatch.setattr(core_watch.WATCH, "scarce", scarce)
    for pool in ("intra_op", "inter_op"):
        key = f"session.{pool}.allow_spinning"
        assert session_options(2).get_session_config_entry(key) == str(int(not scarce))


def test_time_without_a_core_is_summed_over_threads(tmp_path: Path) -> None:
    for task, delay in (("10", 1_500_000_000), ("11", 250_000_000)):
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text(f"77 {delay} 3\n", encoding="ascii")
    assert waited_for_core_s(tmp_path) == 1.75


@pytest.mark.parametrize("content", [None, "", "1\n", "a b c\n"])
def test_a_kernel_that_does_not_tell_is_said_to_be_one(
    tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "10").mkdir()
    if content is not None:
        (tmp_path / "10" / "schedstat").write_text(content, encoding="ascii")
    assert waited_for_core_s(tmp_path) is None
    assert waited_for_core_s(tmp_path / "absent") is None
    monkeypatch.setattr(waiting_module, "waited_for_core_s", lambda: None)
    assert "does not tell" in waiting()


@pytest.mark.skipif(waited_for_core_s() is None, reason="this kernel does not tell")
def test_this_kernels_account_only_grows() -> None:
    before = waited_for_core_s()
    thread = threading.Thread(target=sum, args=(range(100_000),))
    thread.start()
    thread.join()
    after = waited_for_core_s()
    assert before is not None
    assert after is not None
    assert after >= 0
