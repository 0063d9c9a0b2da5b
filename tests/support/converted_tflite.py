"""The network of `pixel_networks` as TensorFlow 2.21's own converter wrote it, float and int8.

A Keras model of one ``Conv2D(4, 1)`` over (1, 16, 24, 3), given W and B, went through
``tf.lite.TFLiteConverter.from_keras_model``. For int8: ``Optimize.DEFAULT``, eight random images in
[0, 1] to calibrate on, ``TFLITE_BUILTINS_INT8``, uint8 in, int8 out. TensorFlow is not among what
the tests install, so the files stand here, compressed.
"""

from __future__ import annotations

import base64
import zlib

_FLOAT = (
    "eNp1VE9rE1EQnyRrW2pIAw2lYJAKHhQkNlEvKrQxVij0jzSheJHt0n0pi5uNbt4WkR78CB48ePDsZ/Bkg/RQEPwE"
    "HkT8AN7Frr95O5usrd3wy8ybnf8zb6tE1Hm0dqtCC1SleapQmYqQTZEFniAjegf8AihPVAZ8i6iAYw4os5ymjRXb"
    "TONUFLv7wAwwUOG+F+zZruo6ka+NHVzQmziOC8JPAf1IP4+0vUjim+WfTuLYEp/PVOgMbK2CQT+UdOi26H2Drwnh"
    "Z4HW5sb2ylZ7dXPDXl/pNB82O03ESHLkWBcyuj0vsMMo0F5P2fsqHHj9gCY5JpKwgCPw74G3gBa77TjJa2fUA66h"
    "NPLPsqtGOmFkaW5kakn7bJm6jg9uzJ78vv4lLzVZxoqoUWvUa+jGZ4nFPuu1O7VFGj87f+L4R+Y90etD/C0BoMPD"
    "0/ET2+Ey0fKQGegD3zNnQ5uQL6U4QoxjgGe5vra6tdDqB+iTVm7NzKlifJZGVXG8ksh5D14CB5yZ5NBzvCCdcWo7"
    "Z/Iv0kWxrSbl5biH10Y7NjPasZyACdOCIPWbF1oY65nYT3D4yVTOX7FfrFKW/lkS7yPkl0Db2tGqG/mPnVB7Gpuh"
    "3Jbj+3b97qLRTe/AvNhejv/1x/F93g3In4J2o2CX3ThwcXMXfWy4YB54zqDpuvf+/5aZvh/xi3M02i8ipV6pzL35"
    "cCqPvMye79yVc/PIRBI/VqbXSX/nzJxJJp08k2Z+rFaRmeYknmV+6MvZ74Cdvc9o55l+Zr8xRbMbyRSL41kX/gIJ"
    "EMWm"
)
_INT8 = (
    "eNqNVE1oE0EUns1u26SGNGCwQYNET0VKbGIP1qaHpK1Y6B9tKF5kXZuNLG437Wa3iIhtVdCjiAcPgiAeFHrwpogH"
    "UQ/iyVMP4sGDiLQgPYj0oB3fm327WdRSBz529s1773vz5pvJMMYqJ0ePpViWZViapViSxcEWZQrMGdgYuwvYBHyV"
    "GNsCvGlhTIZ/mII3jnYRhTHt8BenuCKgA9DQ7UXDOq9W9Zrmmo6IUwC3OOcKzaOAuuvMu47awyg32p9vez6Y84Ju"
    "aw3V0a1G3UafCKCX/D5Crjaa7wUMTozPDE9Nj0yMq2PDldJQqVICDq9G5GoN+c4Zlmq7lmPM6eqibjeMuiV8vuOe"
    "AW8BDwH3AHcADsXOUP1nqb4oSwT5sS9dojetwubz4b42ZPT3e62I2B+n1u53Ru0PEdqXQjUWcoV8Djryirgwbz6X"
    "782JLnnjGay9AHzhzV4tvVx7uvTu0/slGH/WgDnW1zmPxRhLb3FeLHP+U8QqYh3PbGx0ZCo7WLegH45ezYm6U4It"
    "EVSOORNkx/N+BFgFPCGeOc2w/HOaD8Xvp/g9FJ/1tiFhv7qpR56mOgJNSYGdSb42ZEIkFONrt500Fac1uRkfaMv/"
    "b8H6IMlNMHyG+UVfe784Rzesu4f8YMSGUA+w5p8z5tnk3sD59cOTAwfgO+1ojl5zzUnNdgwHVKVXBzXTVPMnegJ+"
    "jE8T35HtJp+va+TDe5Ta9vhSFLdMfP5+Hl9Z7se9OjUzt+BqIOZLOgvt0+fBPtwO8ZwmG/Kgri8TT3eTf9chtHqt"
    "NHDjtTagRFYAUvEQ2GquNYvb1mDLR2dBS4UqTeqmiwsUq4TOF2sp8GZ9FTpf/KC2Mtyrr+s/60Ofq+Vy37cH5/pW"
    "V1YA0vEzO9ZWNrRGqVrt37XyHTymF1xdF42Xgvr2iXe1k26MN9rA6kkxS+8kaVGuCM3GxU+U3oawzlhIw3jmB/9+"
    "X9XwOwlS+6cGIqTppOBLijvv88lNTchxcU+9TuKa7dnt305v/7k="
)


def converted(kind: str) -> bytes:
    """The file, "float" or "int8"."""
    return zlib.decompress(base64.b64decode({"float": _FLOAT, "int8": _INT8}[kind]))
