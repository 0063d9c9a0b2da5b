"""An MCAP file of label maps as ROS 2 has them, for Foxglove, ``ros2 bag`` and ``rosbags``.

Three topics below the camera's: label maps, on wish overlays, and once the classes' names, which a
player shows to whoever comes later ("latched"). The messages of the classes are those of
``vision_msgs`` (https://github.com/ros-perception/vision_msgs), version 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from ..bags.chunks import bags_package
from ..errors import OutputError
from ..labels import LabelSpace

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
LABEL_INFO = "vision_msgs/msg/LabelInfo"
_VISION_CLASS = "vision_msgs/msg/VisionClass"
_DEFINITIONS = {
    _VISION_CLASS: "uint16 class_id\nstring class_name\n",
    LABEL_INFO: (
        "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
    ),
}
_UNLABELLED = "UNLABELED"  # as vision_msgs calls the largest id of a map's type
_JPEG_QUALITY = 90
_LATEST_S = 2**31 - 1  # seconds that a stamp of ROS 2 has
# Quality of service as a recorder notes it: reliable, and of latched topics transient-local.
_QOS = "- history: 1\n  depth: {depth}\n  reliability: 1\n  durability: {durability}\n" + "".join(
    f"  {name}:\n    sec: 9223372036\n    nsec: 854775807\n"
    for name in ("deadline", "lifespan", "liveliness_lease_duration")
)
_QOS += "  liveliness: 1\n  avoid_ros_namespace_conventions: false\n"


class LabelBag:
    """Label maps and overlays written one after the other.

    Args:
        file: to write to; stays open.
        path: named in errors.
        label_space: of the label maps.

    Raises:
        MissingDependencyError: there is no `mcap` or `rosbags`.
    """

    def __init__(self, file: BinaryIO, path: Path, label_space: LabelSpace) -> None:
        needed = "writing a bag"
        typesys = bags_package("rosbags.typesys", needed)
        self._store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
        for name, text in _DEFINITIONS.items():
            self._store.register(typesys.get_types_from_msg(text, name))
        self._writer = bags_package("mcap.writer", needed).Writer(file)
        self._writer.start(profile="ros2", library="roadshift")
        self._path, self._space = path, label_space
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}

    def write(
        self,
        topic: str,
        frame_id: str,
        stamp_ns: int,
        labels: NDArray[np.uint8],
        overlay: NDArray[np.uint8] | None,
    ) -> None:
        """Add the label map of one frame, and its overlay.

        Args:
            topic: the camera's.
            frame_id, stamp_ns: of its message.
            labels: class indices, (H, W).
            overlay: (H, W, 3) RGB.

        Raises:
            OutputError: the time is not one that ROS 2 can state.
        """
        if not 0 <= stamp_ns < _LATEST_S * 10**9:
            raise OutputError(
                f"{self._path}: the frame's time, {stamp_ns} ns since 1970, is not one that ROS 2 "
                "can state; write a folder or a video instead."
            )
        types, header = self._store.types, self._header(frame_id, stamp_ns)
        if f"{topic}/label_info" not in self._channels:
            self._add(f"{topic}/label_info", LABEL_INFO, self._classes(header), stamp_ns)
        height, width = labels.shape
        flat = np.ascontiguousarray(labels).reshape(-1)
        image = types[IMAGE](header, height, width, "mono8", 0, width, flat)
        self._add(f"{topic}/labels", IMAGE, image, stamp_ns)
        if overlay is not None:
            bgr = cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR)
            _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            message = types[COMPRESSED](
                header, "rgb8; jpeg compressed bgr8", np.asarray(jpeg, np.uint8).reshape(-1)
            )
            self._add(f"{topic}/overlay/compressed", COMPRESSED, message, stamp_ns)

    def finish(self) -> None:
        """Write what waits, and the index."""
        self._writer.finish()

    def _header(self, frame_id: str, stamp_ns: int) -> Any:
        seconds, parts = divmod(stamp_ns, 10**9)
        time = self._store.types["builtin_interfaces/msg/Time"](seconds, parts)
        return self._store.types["std_msgs/msg/Header"](time, frame_id)

    def _classes(self, header: Any) -> Any:
        """The names of the classes, by their index; every pixel's class is certain: threshold 0."""
        named = {**dict(enumerate(self._space.classes)), self._space.ignore_index: _UNLABELLED}
        one = self._store.types[_VISION_CLASS]
        classes = [one(index, name) for index, name in sorted(named.items())]
        return self._store.types[LABEL_INFO](header, classes, 0.0)

    def _add(self, topic: str, kind: str, message: Any, time_ns: int) -> None:
        if kind not in self._schemas:
            text, _ = self._store.generate_msgdef(kind, ros_version=2)
            self._schemas[kind] = self._writer.register_schema(kind, "ros2msg", text.encode())
        if topic not in self._channels:
            latched = kind == LABEL_INFO
            qos = _QOS.format(depth=1 if latched else 10, durability=1 if latched else 2)
            self._channels[topic] = self._writer.register_channel(
                topic, "cdr", self._schemas[kind], {"offered_qos_profiles": qos}
            )
        data = self._store.serialize_cdr(message, kind)
        self._writer.add_message(self._channels[topic], time_ns, bytes(data), time_ns)
