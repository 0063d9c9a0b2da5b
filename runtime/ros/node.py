"""The node: it takes the newest image, and publishes label maps with the image's own stamp.

    image             sensor_msgs/Image, or CompressedImage with ``compressed``; queue of 1
    mask              sensor_msgs/Image, mono8: the index of each pixel's class
    colored_mask      sensor_msgs/Image, rgb8: in the colours of the label space, where asked for
    label_info        vision_msgs/LabelInfo, latched; std_msgs/String where that is missing
    diagnostics       diagnostic_msgs/DiagnosticArray once a second; std_msgs/String likewise

Every name can be remapped as ROS 2 remaps names.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bags.compressed import compressed_pixels
from ..bags.message_fields import COMPRESSED
from ..bags.pixels import raw_pixels
from ..bags.regions import BrokenBagError
from ..closing import Closing
from ..engines import Engine
from ..errors import ConfigError, RoadshiftError
from ..pipeline.handoff import Handoff
from ..pipeline.latency import Latencies
from ..printable import one_line
from ..words import counted, shortened
from .messages import camera_message_of, class_list, diagnostics, image_message
from .site import ros_package

QUIET_S = 5.0  # without an image, after which that is said once
_POLL_S = 0.1
_REPORT_S = 1.0
_PARAMETERS = ("use_sim_time", "start_type_description_service")  # of every node of ROS 2


@dataclass(frozen=True)
class NodeOptions:
    """Settings of a node.

    Attributes:
        compressed: whether images are ``CompressedImage``.
        coloured: whether to publish masks in colours.
        arguments: of ROS 2, such as ``["--ros-args", "-r", "image:=/front/image"]``.
    """

    compressed: bool = False
    coloured: bool = True
    arguments: Sequence[str] = ()


class SegmentationNode(Closing):
    """A node that segments images until it is closed.

    Args:
        engine: stays open.
        note: called with a sentence, from the node's threads.

    Attributes:
        received, segmented, dropped, broken: messages so far; what was dropped was replaced by a
            newer one while the engine was busy, what is broken is no picture.

    Raises:
        MissingDependencyError: there is no ROS 2 here.
        ConfigError: ROS 2 does not start with these arguments.
    """

    def __init__(
        self,
        engine: Engine,
        options: NodeOptions | None = None,
        *,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        options = options or NodeOptions()
        rclpy, qos = ros_package("rclpy"), ros_package("rclpy.qos")
        images = ros_package("sensor_msgs.msg")
        self._engine, self._note, self._options = engine, note, options
        self._rclpy = rclpy
        self._context = rclpy.Context()
        self._node = _started(rclpy, self._context, options.arguments)
        if unknown := _unknown_parameters(self._node):
            self._note(
                f"The node has no parameters; left out: {', '.join(unknown)}. The model and its "
                "engine are arguments of the command, as in `roadshift ros BUNDLE --backend NAME`."
            )
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._newest: Handoff[tuple[Any, float]] = Handoff(newest=True)
        self._latencies = Latencies()
        self.segmented = self.broken = 0
        self._last = time.monotonic()
        self._quiet = False
        self.failure: RoadshiftError | None = None
        latched = qos.QoSProfile(depth=1, durability=qos.DurabilityPolicy.TRANSIENT_LOCAL)
        # Best effort takes what reliable and unreliable publishers send.
        newest = qos.QoSProfile(depth=1, reliability=qos.ReliabilityPolicy.BEST_EFFORT)
        self._mask = self._node.create_publisher(images.Image, "mask", 1)
        self._coloured = (
            self._node.create_publisher(images.Image, "colored_mask", 1)
            if options.coloured
            else None
        )
        kind, message = class_list(engine.label_space)
        self._classes = self._node.create_publisher(kind, "label_info", latched)
        self._classes.publish(message)
        self._diagnostics: Any = None
        self._node.create_subscription(
            images.CompressedImage if options.compressed else images.Image,
            "image",
            lambda message: self._newest.put((message, time.perf_counter())),
            newest,
        )
        self._node.create_timer(_REPORT_S, self._report)
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    @property
    def received(self) -> int:
        return self._newest.given

    @property
    def dropped(self) -> int:
        return self._newest.dropped

    def spin(self, stop_requested: Callable[[], bool]) -> None:
        """Serve until a stop is requested, or ROS 2 is shut down.

        Raises:
            RoadshiftError: the engine fails.
        """
        while not stop_requested() and self._context.ok() and self.failure is None:
            self._executor.spin_once(timeout_sec=_POLL_S)
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        self._newest.end(discard=True)
        self._worker.join()
        self._executor.shutdown()
        self._node.destroy_node()
        if self._context.ok():
            self._rclpy.shutdown(context=self._context)

    def figures(self) -> dict[str, float]:
        """Counts, and milliseconds from an image's arrival to its mask."""
        return {
            "received": self.received,
            "segmented": self.segmented,
            "dropped": self.dropped,
            "broken": self.broken,
            **{f"{name}_ms": value for name, value in self._latencies.summary().items()},
        }

    def _work(self) -> None:
        """Segment the newest image, as long as there is one."""
        while isinstance(item := self._newest.get(), tuple):
            message, came = item
            try:
                self._segment(message)
            except BrokenBagError as problem:
                self.broken += 1
                if self.broken == 1:
                    self._note(f"An image of {self._topic()} was left out: {problem}.")
                continue
            except RoadshiftError as error:
                self.failure = error
                return
            self._latencies.add(1000 * (time.perf_counter() - came))
            self.segmented += 1
            self._last, self._quiet = time.monotonic(), False

    def _segment(self, message: Any) -> None:
        camera = camera_message_of(message)
        image = compressed_pixels(camera) if camera.kind == COMPRESSED else raw_pixels(camera)
        if image.dtype != np.uint8:
            image = (image >> 8).astype(np.uint8)
        labels = self._engine.segment(np.ascontiguousarray(image))
        self._mask.publish(image_message(message.header, labels, "mono8"))
        if self._coloured is not None:
            colours = self._engine.label_space.colourise(labels)
            self._coloured.publish(image_message(message.header, colours, "rgb8"))

    def _report(self) -> None:
        """Publish diagnostics; say once that no image comes."""
        stamp = self._node.get_clock().now().to_msg()
        kind, message = diagnostics(self.figures(), self._engine, stamp)
        if self._diagnostics is None:
            self._diagnostics = self._node.create_publisher(kind, "diagnostics", 1)
        self._diagnostics.publish(message)
        waited = time.monotonic() - self._last
        if waited > QUIET_S and not self._quiet:
            self._quiet = True
            publishers = self._node.count_publishers(self._topic())
            self._note(
                f"No image came for {waited:.0f} s on {self._topic()}, which has "
                f"{counted(publishers, 'publisher')}; it is waited for."
            )

    def _topic(self) -> str:
        """The name of the images' topic after remapping."""
        name: str = self._node.resolve_topic_name("image")
        return name


def _started(rclpy: Any, context: Any, arguments: Sequence[str]) -> Any:
    """The node of a context that is begun with arguments of ROS 2, and ended where that fails."""
    try:
        rclpy.init(args=list(arguments), context=context)
        return rclpy.create_node(
            "roadshift", context=context, automatically_declare_parameters_from_overrides=True
        )
    except Exception as error:  # of many classes, which differ from one ROS 2 to the next
        if context.ok():
            rclpy.shutdown(context=context)
        given = f" with the arguments {shlex.join(arguments)}" if arguments else ""
        said = shortened(one_line(str(error)), 300) or type(error).__name__
        raise ConfigError(f"ROS 2 does not start{given}: {said}.") from error


def _unknown_parameters(node: Any) -> list[str]:
    """Names of the parameters that were given and that no node has."""
    return sorted(
        name
        for name in node.get_parameters_by_prefix("")
        if name not in _PARAMETERS and not name.startswith("qos_overrides.")
    )
