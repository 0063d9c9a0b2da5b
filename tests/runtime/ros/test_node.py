"""The node against a real ROS 2 on this machine, where there is one."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from roadshift.runtime.engines import Engine, open_engine
from roadshift.runtime.errors import ConfigError, EngineError, MissingDependencyError
from roadshift.runtime.ros.node import NodeOptions, SegmentationNode, _unknown_parameters
from roadshift.runtime.ros.site import optional_package, ros_package
from signed_bundles import HEIGHT, WIDTH, small_bundle

try:
    import rclpy
    from sensor_msgs.msg import CompressedImage, Image
    from std_msgs.msg import String
except ImportError:
    rclpy = None  # type: ignore[assignment]

needs_ros = pytest.mark.skipif(
    rclpy is None, reason="ROS 2 is not installed: pip install 'ros-kilted-rclpy[fastrtps]'"
)
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_without_ros_there_is_a_sentence() -> None:
    assert optional_package("no_such_package_of_ros") is None
    with pytest.raises(MissingDependencyError, match=r"source the setup file of your ROS 2"):
        ros_package("no_such_package_of_ros.msg")


class FakeRos:
    """As much of `rclpy` as starts a node, and fails at one step of it."""

    def __init__(self, fails_at: str) -> None:
        self.fails_at = fails_at
        self.begun = False

    def Context(self) -> Any:  # noqa: N802
        return SimpleNamespace(ok=lambda: self.begun)

    def init(self, **_: Any) -> None:
        self._fail("init", RuntimeError("failed to initialize rcl:\n\tno remap rule"))
        self.begun = True

    def create_node(self, *_: Any, **__: Any) -> Any:
        self._fail("create_node", Exception("Invalid node name"))

    def shutdown(self, **_: Any) -> None:
        assert self.begun
        self.begun = False

    def _fail(self, step: str, error: Exception) -> None:
        if step == self.fails_at:
            raise error


@pytest.mark.parametrize(
    ("step", "said"), [("init", "rcl: no remap rule"), ("create_node", "Invalid node name")]
)
def test_arguments_that_ros_refuses_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, step: str, said: str
) -> None:
    ros = FakeRos(step)
    monkeypatch.setattr("roadshift.runtime.ros.node.ros_package", lambda _: ros)
    options = NodeOptions(arguments=["--ros-args", "-r", "a b"])
    with pytest.raises(ConfigError, match=rf"arguments --ros-args -r 'a b': .*{said}\.$"):
        SegmentationNode(None, options)  # type: ignore[arg-type]
    assert not ros.begun


def test_parameters_of_every_node_are_known() -> None:
    given = {"use_sim_time": 1, "qos_overrides./image.depth": 2, "bundle": 3, "backend": 4}
    node = SimpleNamespace(get_parameters_by_prefix=lambda _: given)
    assert _unknown_parameters(node) == ["backend", "bundle"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with open_engine(small_bundle(tmp_path / "b")) as opened:
        yield opened


class Car:
    """A camera and a listener in a context of their own."""

    def __init__(self, kind: Any) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("car", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.kind = kind
        self.masks: list[Any] = []
        self.said: list[Any] = []
        self.camera = self.node.create_publisher(kind, "/front/image", 1)
        self.node.create_subscription(Image, "mask", self.masks.append, 100)

    def publish(self, second: int, **parts: Any) -> None:
        message = self.kind()
        message.header.stamp.sec, message.header.stamp.nanosec = second, 123_456_789
        message.header.frame_id = "front"
        for name, value in parts.items():
            setattr(message, name, value)
        self.camera.publish(message)

    def until(self, done: Callable[[], bool], again: Callable[[], None] = lambda: None) -> None:
        end = time.monotonic() + 30
        while not done():
            again()
            self.executor.spin_once(timeout_sec=0.02)
            assert time.monotonic() < end, "it never happened"

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@contextmanager
def running(
    engine: Engine, compressed: bool = False, notes: list[str] | None = None
) -> Iterator[tuple[Any, Car]]:
    """A node that serves in a thread, and a car around it."""
    car = Car(CompressedImage if compressed else Image)
    arguments = ["--ros-args", "-r", "image:=/front/image"]
    said = (notes if notes is not None else []).append
    stopped = threading.Event()
    with SegmentationNode(engine, NodeOptions(compressed, arguments=arguments), note=said) as node:
        thread = threading.Thread(target=lambda: spun(node, stopped))
        thread.start()
        try:
            yield node, car
        finally:
            stopped.set()
            thread.join()
            car.close()


def are_matched(node: Any, car: Car) -> bool:
    """Tell whether camera, node and listener have found one another; what comes before is lost."""
    listeners: int = node._mask.get_subscription_count()
    return listeners > 0 and car.camera.get_subscription_count() > 0


def spun(node: Any, stopped: threading.Event) -> None:
    with suppress(EngineError):  # `failure` has it
        node.spin(stopped.is_set)


@needs_ros
def test_every_stamp_comes_back_with_its_mask(engine: Engine) -> None:
    parts = {"height": HEIGHT, "width": WIDTH, "encoding": "bgr8", "step": 3 * WIDTH}
    with running(engine) as (node, car):
        car.until(lambda: are_matched(node, car))
        lost = 0
        for second in range(60):
            sent, before = 0.0, len(car.masks)
            while len(car.masks) == before:
                if time.monotonic() - sent > 3:  # the transport may lose one, and the node cannot
                    lost += sent > 0
                    assert lost < 3
                    car.publish(second, data=PICTURE[..., ::-1].tobytes(), **parts)
                    sent = time.monotonic()
                car.executor.spin_once(timeout_sec=0.02)
        expected = engine.segment(PICTURE)
        assert len(car.masks) >= 60
        for second, mask in enumerate(car.masks[:60]):
            assert (mask.header.stamp.sec, mask.header.stamp.nanosec) == (second, 123_456_789)
            assert (mask.header.frame_id, mask.encoding) == ("front", "mono8")
            np.testing.assert_array_equal(
                np.frombuffer(mask.data, np.uint8).reshape(HEIGHT, WIDTH), expected
            )
        assert node.figures()["segmented"] >= 60


@needs_ros
@pytest.mark.parametrize(
    ("flag", "value"), [("-r", "nonsense"), ("-r", "__node:=3bad/name"), ("--bogus", "x")]
)
def test_arguments_that_the_real_ros_refuses(engine: Engine, flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=r"^ROS 2 does not start with the arguments"):
        SegmentationNode(engine, NodeOptions(arguments=["--ros-args", flag, value]))


@needs_ros
def test_parameters_that_the_node_does_not_have_are_told(engine: Engine) -> None:
    notes: list[str] = []
    given = ["--ros-args", "-p", "backend:=x", "-p", "use_sim_time:=false", "-p", "bundle:=b"]
    with SegmentationNode(engine, NodeOptions(arguments=given), note=notes.append):
        pass
    assert notes[0].startswith("The node has no parameters; left out: backend, bundle.")
    with SegmentationNode(engine, note=notes.append):
        pass
    assert len(notes) == 1


@needs_ros
def test_compressed_images_and_a_late_subscriber_to_the_classes(engine: Engine) -> None:
    _, jpeg = cv2.imencode(".png", PICTURE[..., ::-1])
    with running(engine, compressed=True) as (node, car):
        car.until(lambda: are_matched(node, car))
        car.until(
            lambda: bool(car.masks),
            lambda: car.publish(1, format="bgr8; png compressed bgr8", data=jpeg.tobytes()),
        )
        qos = rclpy.qos.QoSProfile(depth=1, durability=rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL)
        if optional_package("vision_msgs") is None:
            car.node.create_subscription(String, "label_info", car.said.append, qos)
            car.until(lambda: bool(car.said))
            assert "building" in car.said[0].data


@needs_ros
def test_a_slow_engine_gets_the_newest_image(engine: Engine) -> None:
    class Slow(type(engine)):  # type: ignore[misc]
        def __init__(self) -> None:
            self.__dict__.update(engine.__dict__)

        def segment(self, frame: Any) -> Any:
            time.sleep(0.2)
            return engine.segment(frame)

    parts = {"height": HEIGHT, "width": WIDTH, "encoding": "rgb8", "step": 3 * WIDTH}
    with running(Slow()) as (node, car):
        car.until(lambda: are_matched(node, car))
        for second in range(40):
            car.publish(second, data=PICTURE.tobytes(), **parts)
            car.executor.spin_once(timeout_sec=0.02)
        car.until(lambda: bool(car.masks) and car.masks[-1].header.stamp.sec >= 38)
        stamps = [mask.header.stamp.sec for mask in car.masks]
        assert stamps == sorted(stamps)
        assert node.dropped > 0


@needs_ros
def test_broken_images_a_vanished_camera_and_a_failing_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadshift.runtime.ros.node.QUIET_S", 0.5)
    notes = list[str]()
    good = {"height": HEIGHT, "width": WIDTH, "encoding": "rgb8", "step": 3 * WIDTH}
    with running(engine, notes=notes) as (node, car):
        car.until(lambda: are_matched(node, car))
        car.until(
            lambda: node.broken > 1,
            lambda: car.publish(1, data=b"short", **{**good, "height": 900}),
        )
        assert len([n for n in notes if "was left out" in n]) == 1
        car.until(lambda: bool(car.masks), lambda: car.publish(2, data=PICTURE.tobytes(), **good))
        car.node.destroy_publisher(car.camera)
        car.until(lambda: any("No image came for" in note for note in notes))
        assert any("0 publishers" in note for note in notes)
        monkeypatch.setattr(engine, "segment", failing)
        car.camera = car.node.create_publisher(Image, "/front/image", 1)
        car.until(
            lambda: node.failure is not None,
            lambda: car.publish(3, data=PICTURE.tobytes(), **good),
        )


def failing(*_: object) -> None:
    raise EngineError("the accelerator is gone")
