"""Label maps in an MCAP file: what `rosbags` and `mcap` read of it, and what a death leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_cases import pictures, stamp_of, write_ros2
from fake_engines import Threshold
from mcap.reader import make_reader
from roadshift.runtime.errors import MissingDependencyError, OutputError
from roadshift.runtime.frames import Frame, open_frames
from roadshift.runtime.pipeline import Result
from roadshift.runtime.pipeline.overlay import overlay
from roadshift.runtime.pipeline.run_frames import run_frames
from roadshift.runtime.pipeline.sinks import open_sink
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from spaces import TWO

SHOWN = pictures(5)
LABELS = "/front/image/labels"  # of a run on them


def result(frame: Frame) -> Result:
    labels = (frame.image[..., 0] > 127).astype(np.uint8)
    return Result(frame, labels, {}, 0.0)


def run(source: Path, out: Path, **settings: object) -> dict[str, object]:
    return run_frames(open_frames(source), Threshold(), out, **settings)  # type: ignore[arg-type]


def expected(engine: Threshold, source: Path) -> list[np.ndarray]:
    return [engine.segment(frame) for frame in open_frames(source)]


def test_rosbags_reads_labels_overlays_and_classes(tmp_path: Path) -> None:
    source, out = write_ros2(tmp_path / "drive", SHOWN), tmp_path / "out.mcap"
    summary = run(source, out, overlay=True)
    assert summary["frames"] == 5
    maps = expected(Threshold(), source)
    with AnyReader([out]) as reader:
        found = {topic: [] for topic in ("labels", "overlay/compressed", "label_info")}  # type: ignore[var-annotated]
        for connection, time_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            found[connection.topic.removeprefix("/front/image/")].append((time_ns, message))
        (latched,) = (one for one in reader.connections if one.topic.endswith("/label_info"))
        qos = latched.ext.offered_qos_profiles[0]  # type: ignore[union-attr]
        assert qos.durability is QosDurability.TRANSIENT_LOCAL
    for number, (time_ns, message) in enumerate(found["labels"]):
        stamp = message.header.stamp
        assert stamp.sec * 10**9 + stamp.nanosec == time_ns == stamp_of(number)
        assert (message.header.frame_id, message.encoding, message.step) == ("front", "mono8", 32)
        np.testing.assert_array_equal(message.data.reshape(24, 32), maps[number])
    assert len(found["labels"]) == len(found["overlay/compressed"]) == 5
    for (_, message), picture, labels in zip(found["overlay/compressed"], SHOWN, maps, strict=True):
        assert message.format == "rgb8; jpeg compressed bgr8"
        shown = cv2.cvtColor(cv2.imdecode(message.data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        difference = np.abs(shown.astype(int) - overlay(picture, labels, TWO))
        assert difference.mean() < 25  # JPEG of noise
    ((_, classes),) = found["label_info"]
    assert [(one.class_id, one.class_name) for one in classes.class_map] == [
        *enumerate(TWO.classes),
        (TWO.ignore_index, "UNLABELED"),
    ]
    assert classes.header.frame_id == "front"


def test_mcap_reads_it_with_an_index_and_definitions(tmp_path: Path) -> None:
    source, out = write_ros2(tmp_path / "drive", SHOWN), tmp_path / "out.mcap"
    run(source, out)
    with out.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert reader.get_header().profile == "ros2"
        assert sum(1 for _ in reader.iter_messages()) == 6
    assert summary is not None
    schemas = {one.name: one for one in summary.schemas.values()}
    assert {one.encoding for one in schemas.values()} == {"ros2msg"}
    assert "MSG: vision_msgs/VisionClass" in schemas["vision_msgs/msg/LabelInfo"].data.decode()
    assert {one.message_encoding for one in summary.channels.values()} == {"cdr"}


def test_our_own_reader_takes_the_label_maps_as_pictures(tmp_path: Path) -> None:
    source, out = write_ros2(tmp_path / "drive", SHOWN), tmp_path / "out.mcap"
    run(source, out)
    maps = expected(Threshold(), source)
    for frame, labels in zip(open_frames(out, topic=LABELS), maps, strict=True):
        np.testing.assert_array_equal(frame.image, np.stack([labels] * 3, axis=2))


def test_images_have_the_times_of_their_rate(tmp_path: Path) -> None:
    for number, picture in enumerate(SHOWN):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    out = tmp_path / "out.mcap"
    run(tmp_path, out, fps=20.0)
    with AnyReader([out]) as reader:
        times = [time for one, time, _ in reader.messages() if one.topic == "/camera/labels"]
    assert times == [number * 50_000_000 for number in range(5)]


def test_a_paced_recording_keeps_its_stamps(tmp_path: Path) -> None:
    source, out = write_ros2(tmp_path / "drive", SHOWN[:3]), tmp_path / "out.mcap"
    summary = run(source, out, realtime=True)
    with AnyReader([out]) as reader:
        times = {time for _, time, _ in reader.messages()}
    assert times <= {*map(stamp_of, range(3))}
    assert len(times) == summary["frames"]


# ---- whole or not at all ------------------------------------------------------------------------


def test_a_run_that_fails_leaves_a_readable_bag_under_another_name(tmp_path: Path) -> None:
    out, said = tmp_path / "out.mcap", list[str]()
    frames = list(open_frames(write_ros2(tmp_path / "drive", SHOWN)))
    sink = open_sink(out, TWO, note=said.append)
    sink(result(frames[0]))
    sink.__exit__(None, ValueError("engine"), None)
    assert not out.exists()
    kept = tmp_path / "out.incomplete.mcap"
    assert said == [f"{out} was not finished; what there is of it is kept as {kept}."]
    assert len(list(open_frames(kept, topic=LABELS))) == 1


def test_a_run_without_frames_leaves_nothing(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.mcap", TWO):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_file_under_the_final_name(tmp_path: Path) -> None:
    source, out = write_ros2(tmp_path / "drive", SHOWN), tmp_path / "out.mcap"
    program = (
        "import os, sys\n"
        "import bag_cases, test_bag_sink as cases\n"
        "from pathlib import Path\n"
        "frames = list(cases.open_frames(sys.argv[1]))\n"
        "with cases.open_sink(Path(sys.argv[2]), cases.TWO) as sink:\n"
        "    for _ in range(300):\n"
        "        for frame in frames:\n"
        "            sink(cases.result(frame))\n"
        f"    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    support = Path(__file__).parents[2] / "support"
    paths = [str(support), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", program, str(source), str(out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    said: list[str] = []
    with open_sink(out, TWO, note=said.append) as sink:  # the next run finds what is left
        sink(result(next(iter(open_frames(source)))))
    kept = tmp_path / "out.incomplete.mcap"
    assert said == [f"an earlier run did not finish {out}; what it recorded is kept as {kept}."]
    assert len(list(open_frames(kept, topic=LABELS, on_skip=said.append))) > 100
    assert len(list(open_frames(out, topic=LABELS))) == 1


def test_two_runs_cannot_write_one_bag(tmp_path: Path) -> None:
    out = tmp_path / "out.mcap"
    with (
        open_sink(out, TWO),
        pytest.raises(OutputError, match="another run is writing this bag"),
        open_sink(out, TWO),
    ):
        pass


def test_a_full_disk_is_said_and_what_was_written_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.mcap"
    frames = list(open_frames(write_ros2(tmp_path / "drive", SHOWN)))

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    sink = open_sink(out, TWO, note=lambda _: None)
    sink(result(frames[0]))
    monkeypatch.setattr("roadshift.runtime.part_file.flush", full)
    with pytest.raises(OutputError, match="disk is full"):
        sink.__exit__(None, None, None)
    assert not out.exists()
    assert (tmp_path / "out.incomplete.mcap").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["out.bag", "out.db3"])
def test_other_kinds_of_bags_are_not_written(tmp_path: Path, name: str) -> None:
    source = write_ros2(tmp_path / "drive", SHOWN[:1])
    with pytest.raises(OutputError, match=r"no \.(bag|db3) file is written.*drive\.mcap"):
        run(source, tmp_path / name)


def test_a_time_that_ros_cannot_state_is_refused(tmp_path: Path) -> None:
    frame = Frame(SHOWN[0], "a", 0)
    later = Frame(SHOWN[0], "b", 2**62)
    with open_sink(tmp_path / "out.mcap", TWO, note=lambda _: None) as sink:
        sink(result(frame))
        with pytest.raises(OutputError, match="not one that ROS 2 can state"):
            sink(result(later))


def test_a_package_that_is_missing_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcap.writer", None)
    with pytest.raises(MissingDependencyError, match=r"mcap: pip install 'roadshift\[bags\]'"):
        open_sink(tmp_path / "out.mcap", TWO)
    assert list(tmp_path.iterdir()) == []
