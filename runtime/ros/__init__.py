"""A node of ROS 2 over the site's own ``rclpy``: camera images in, label maps out."""

from __future__ import annotations
