"""Domains: under which light, through which air and with which camera a scene is seen."""

from dataclasses import dataclass, replace

from .materials import OFF, Colour


@dataclass(frozen=True, slots=True)
class Domain:
    """Appearance of the built-in scenes. Light is linear; 1 is white paper in full daylight.

    The last three fields move the camera and so the labels; all others leave the labels alone.
    """

    name: str
    # Light
    sun: Colour = (1.15, 1.05, 0.90)  # light of the sun on a surface that faces it
    sun_elevation: float = 48.0  # degrees above the horizon
    shadow: float = 0.8  # darkness of cast shadows: share of the sun's light they take
    ambient: Colour = (0.32, 0.37, 0.44)  # light of the sky on every surface
    sky_zenith: Colour = (0.09, 0.22, 0.55)
    sky_horizon: Colour = (0.36, 0.52, 0.76)
    clouds: float = 0.4  # cover, 0 to 1
    headlights: float = 0.0  # of the ego vehicle
    street_lights: float = 0.0
    lamps: float = 0.06  # brightness of lit windows, vehicle lamps and traffic lights
    # Air and water
    fog: float = 0.0004  # extinction per metre
    fog_colour: Colour = (0.66, 0.74, 0.82)
    wetness: float = 0.0  # share of mirrored light on the ground
    drops: int = 0  # drops on the lens
    # Camera
    exposure: float = 1.4
    cast: Colour = (1.0, 1.0, 1.0)  # gain of each colour after exposure
    gamma: float = 1.0  # exponent on the encoded image; below 1 brightens
    contrast: float = 1.0  # about mid-grey, on the encoded image
    saturation: float = 1.0
    lift: float = 0.0  # black level of the encoded image, 0 to 1
    noise: float = 0.006  # deviation of the sensor's noise, encoded, 0 to 1
    blur: float = 0.55  # pixels, at an image width of 512
    sharpen: float = 0.0  # strength of the camera's unsharp mask
    vignette: float = 0.15  # loss of light in the corners
    camera_height: float = 1.45  # metres above the road
    camera_pitch: float = -1.5  # degrees, negative looks down
    fov: float = 64.0  # horizontal, degrees


# fmt: off
_NIGHT = Domain("night", sun=(0.012, 0.016, 0.03), shadow=0.0, ambient=(0.016, 0.022, 0.046),
                sky_zenith=(0.004, 0.006, 0.016), sky_horizon=(0.045, 0.036, 0.04), clouds=0.6,
                headlights=0.6, street_lights=0.34, lamps=1.0, fog=0.0015,
                fog_colour=(0.04, 0.036, 0.04), exposure=0.62, cast=(0.95, 0.98, 1.15),
                contrast=0.95, saturation=0.85, noise=0.022, blur=0.8, vignette=0.3)
DOMAINS = {domain.name: domain for domain in (
    Domain("daylight"),
    Domain("dusk", sun=(0.62, 0.43, 0.30), sun_elevation=20.0, shadow=0.58,
           ambient=(0.18, 0.185, 0.23), sky_zenith=(0.07, 0.13, 0.37),
           sky_horizon=(0.71, 0.42, 0.31), clouds=0.36, lamps=0.52, fog=0.001,
           fog_colour=(0.49, 0.37, 0.33), exposure=1.18, cast=(1.14, 0.96, 0.86), gamma=1.11,
           noise=0.01, blur=0.62, vignette=0.26),
    _NIGHT,
    Domain("fog", sun=OFF, shadow=0.0, ambient=(0.62, 0.64, 0.66), sky_zenith=(0.62, 0.64, 0.66),
           sky_horizon=(0.66, 0.67, 0.68), clouds=0.0, lamps=0.5, fog=0.026, exposure=0.9,
           fog_colour=(0.64, 0.66, 0.68), contrast=0.9, saturation=0.75, noise=0.01, blur=0.8),
    Domain("rain", sun=OFF, shadow=0.0, ambient=(0.30, 0.33, 0.37), sky_zenith=(0.36, 0.40, 0.45),
           sky_horizon=(0.50, 0.53, 0.57), clouds=1.0, lamps=0.8, fog=0.008,
           fog_colour=(0.42, 0.45, 0.49), wetness=0.5, drops=70, exposure=0.9, contrast=0.85,
           saturation=0.7, noise=0.012, blur=0.9),
    Domain("camera", clouds=0.3, exposure=1.7, cast=(1.12, 1.0, 0.8), gamma=0.85, contrast=1.2,
           saturation=1.4, lift=0.06, noise=0.018, sharpen=0.9, vignette=0.45, camera_height=2.1,
           camera_pitch=-5.0, fov=84.0),
    replace(_NIGHT, name="night_fog", sky_zenith=(0.06, 0.055, 0.05), fog=0.02,
            fog_colour=(0.13, 0.115, 0.10), contrast=0.85, saturation=0.6))}
# fmt: on
