"""`roadshift ros`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .engines import engine_of, engine_of_slots
from .options import AllowNetwork, ArtefactIn, Backend, Device, Slots, Threads, TrustOfModel


def ros(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="A model bundle; none with --slots.")
    ] = None,
    ros_arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- --ros-args ...]",
            help="Arguments of ROS 2, after --: -r image:=/front/image -r mask:=/front/mask.",
        ),
    ] = None,
    compressed: Annotated[
        bool, typer.Option("--compressed", help="Images are sensor_msgs/CompressedImage.")
    ] = False,
    coloured: Annotated[
        bool, typer.Option("--coloured/--no-coloured", help="Publish masks in colours, too.")
    ] = True,
    slots: Slots = None,
    trust: TrustOfModel = None,
    backend: Backend = "auto",
    artefact: ArtefactIn = None,
    device: Device = "auto",
    threads: Threads = None,
    allow_network: AllowNetwork = None,
) -> None:
    """Run as a node of ROS 2: images in, label maps with their stamps out, the newest first.

    Subscribes to `image`; publishes `mask`, `colored_mask`, `label_info` and `diagnostics`. Needs
    the rclpy of your ROS 2 in this shell.
    """
    from ..runtime.console.signals import stop_on_signals
    from ..runtime.console.terminal import note, say
    from ..runtime.ros.node import NodeOptions, SegmentationNode

    arguments = list(ros_arguments or ())
    if slots is not None and bundle is not None:
        arguments, bundle = [str(bundle), *arguments], None
    if slots is None and bundle is None:
        raise typer.BadParameter("it is missing; give it, or --slots.", param_hint="BUNDLE")
    with (
        stop_on_signals() as stop_requested,
        (
            engine_of_slots(
                *(slots, trust, backend, device, threads), artefact=artefact, allow=allow_network
            )
            if bundle is None and slots is not None
            else engine_of(
                *(bundle or Path(), backend, device, artefact, threads, allow_network, trust)
            )
        ) as engine,
        SegmentationNode(engine, NodeOptions(compressed, coloured, arguments), note=note) as node,
    ):
        note(engine.reason)
        node.spin(stop_requested)
        figures = node.figures()
    say(
        f"{figures['received']} images received, {figures['segmented']} segmented, "
        f"{figures['dropped']} dropped, {figures['broken']} broken; from image to mask p50 "
        f"{figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms."
    )
