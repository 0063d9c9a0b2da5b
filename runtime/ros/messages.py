"""Messages of ROS 2 from and to arrays."""

from __future__ import annotations

import array
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bags.message_fields import COMPRESSED, RAW
from ..bags.messages import CameraMessage
from ..engines import Engine
from ..labels import LabelSpace
from .site import optional_package, ros_package


def camera_message_of(message: Any) -> CameraMessage:
    """The camera message in a ``sensor_msgs`` image; its pixels are not copied."""
    stamp = message.header.stamp
    common = (stamp.sec * 10**9 + stamp.nanosec, message.header.frame_id)
    if hasattr(message, "format"):
        return CameraMessage(COMPRESSED, *common, message.format, memoryview(message.data))
    return CameraMessage(
        RAW,
        *common,
        message.encoding,
        memoryview(message.data),
        message.width,
        message.height,
        message.step,
        bool(message.is_bigendian),
    )


def image_message(header: Any, pixels: NDArray[np.uint8], encoding: str) -> Any:
    """A ``sensor_msgs/Image`` with another's header: "mono8" of (H, W), "rgb8" of (H, W, 3)."""
    message = ros_package("sensor_msgs.msg").Image()
    message.header = header
    message.height, message.width = pixels.shape[:2]
    message.encoding = encoding
    message.step = pixels[0].nbytes
    # The generated class checks every element of anything but an array of its own type.
    message.data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    return message


def class_list(space: LabelSpace) -> tuple[Any, Any]:
    """Type and message of the classes: ``vision_msgs/LabelInfo``, or JSON where that is missing."""
    vision = optional_package("vision_msgs.msg")
    if vision is None or not hasattr(vision, "LabelInfo"):
        return json_message({"classes": dict(enumerate(space.classes))})
    message = vision.LabelInfo()
    message.class_map = [
        vision.VisionClass(class_id=index, class_name=name)
        for index, name in enumerate(space.classes)
    ]
    return vision.LabelInfo, message


def diagnostics(figures: dict[str, float], engine: Engine, stamp: Any) -> tuple[Any, Any]:
    """Type and message of the latency: ``diagnostic_msgs``, or JSON where that is missing."""
    package = optional_package("diagnostic_msgs.msg")
    if package is None:
        return json_message({**figures, "engine": engine.describe()})
    message = package.DiagnosticArray()
    message.header.stamp = stamp
    message.status = [
        package.DiagnosticStatus(
            level=package.DiagnosticStatus.OK,
            name="roadshift: segmentation",
            message=f"p99 {figures['p99_ms']:.1f} ms, {figures['dropped']:.0f} dropped",
            hardware_id=engine.device,
            values=[package.KeyValue(key=k, value=f"{v:g}") for k, v in figures.items()],
        )
    ]
    return package.DiagnosticArray, message


def json_message(document: dict[str, Any]) -> tuple[Any, Any]:
    """Type and message of a JSON document: ``std_msgs/String``."""
    package = ros_package("std_msgs.msg")
    return package.String, package.String(data=json.dumps(document))
