"""Descriptors of the frames that are kept, and which of them is worth least.

A frame's value is its distance from the nearest other kept frame, times its weight (how rare its
classes are, how much there is to see). So of the two that are most alike the lighter one goes
first, and the rest stays spread over everything that was seen, whatever was seen most.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .appearance import LENGTH, Vector

MOST = 40_000  # frames; a look at all their descriptors takes about a millisecond
FAR_S, OF_TIME = 600.0, 0.05  # two frames so far apart in time, or farther, differ by that much
_NONE = -1
_Scalar = TypeVar("_Scalar", bound=np.generic)


class Reservoir:
    """Kept frames by slot, 0 to `len` - 1; a frame that is taken out leaves its slot to the last.

    Attributes:
        names: of the frames, by slot.
        sizes: bytes of each on the disk.
        total: their sum.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.total = 0
        self._count = 0
        self._vectors = np.zeros((LENGTH, 64), np.float32)  # a column each
        self._squares = np.zeros(64, np.float32)
        self._times = np.zeros(64, np.float64)  # seconds
        self._weights = np.zeros(64, np.float32)
        self._nearest = np.full(64, _NONE, np.int32)  # slot of the nearest other one
        self._gaps = np.full(64, np.inf, np.float32)  # distance to it
        self._worst: tuple[int, float] | None = None  # once it was asked for

    def __len__(self) -> int:
        return self._count

    def differences(self, vector: Vector) -> Vector:
        """Distance of a descriptor from each kept one's, without time, (len,)."""
        squares = self._squares_from(vector)
        return np.sqrt(np.maximum(squares, 0, out=squares), out=squares)

    def nearest(self, vector: Vector, time_s: float) -> tuple[float, float]:
        """Difference and distance of a descriptor from the nearest kept one; infinite of none."""
        n = self._count
        if not n:
            return np.inf, np.inf
        squares = self._squares_from(vector)
        least = float(squares.min())
        near = np.flatnonzero(squares <= least + OF_TIME**2)  # time makes none of the others nearer
        apart = OF_TIME * np.minimum(np.abs(self._times[near] - time_s) / FAR_S, 1)
        distance = float((squares[near] + np.square(apart)).min())
        return max(least, 0.0) ** 0.5, max(distance, 0.0) ** 0.5

    def _squares_from(self, vector: Vector) -> Vector:
        """Squared differences, (len,), perhaps a little below 0.

        A product by BLAS would be shared out to all cores, which are the engine's; `einsum`
        makes it in this thread, and columns in half of the time that rows take.
        """
        n = self._count
        squares: Vector = np.einsum("ij,i->j", self._vectors[:, :n], vector)
        squares *= -2
        squares += self._squares[:n]
        squares += float(vector @ vector)
        return squares

    def distances(self, differences: Vector, time_s: float) -> Vector:
        """Distances for the value: differences, and time as far as it separates, (len,)."""
        far = np.minimum(np.abs(self._times[: self._count] - time_s) / FAR_S, 1)
        squares = np.square(differences) + np.square(OF_TIME * far)
        return np.asarray(np.sqrt(squares), np.float32)

    def add(
        self, name: str, size: int, vector: Vector, time_s: float, weight: float, distances: Vector
    ) -> None:
        """Take a frame in; ``distances`` are its own to those kept now."""
        self._worst = None
        slot = self._count
        if slot == len(self._times):
            self._grow()
        self.names.append(name)
        self.sizes.append(size)
        self.total += size
        self._vectors[:, slot], self._squares[slot] = vector, float(vector @ vector)
        self._times[slot], self._weights[slot] = time_s, weight
        closer = distances < self._gaps[:slot]
        self._gaps[:slot][closer] = distances[closer]
        self._nearest[:slot][closer] = slot
        self._count += 1
        if slot:
            nearest = int(distances.argmin())
            self._nearest[slot], self._gaps[slot] = nearest, distances[nearest]
        else:
            self._nearest[slot], self._gaps[slot] = _NONE, np.inf

    def worth_least(self) -> tuple[int, float]:
        """Slot and value of the frame to take out first; there must be one."""
        if self._worst is None:
            values = self._gaps[: self._count] * self._weights[: self._count]
            slot = int(values.argmin())
            self._worst = slot, float(values[slot])
        return self._worst

    def remove(self, slot: int) -> None:
        """Take a frame out; the last one moves to its slot."""
        self._worst = None
        last = self._count - 1
        self.total -= self.sizes[slot]
        self.names[slot], self.sizes[slot] = self.names[last], self.sizes[last]
        self.names.pop()
        self.sizes.pop()
        for array in (self._vectors, self._squares, self._times, self._weights):
            array[..., slot] = array[..., last]
        bereft = np.flatnonzero(self._nearest[:last] == slot).tolist()
        if slot != last:
            self._nearest[slot], self._gaps[slot] = self._nearest[last], self._gaps[last]
            if self._nearest[slot] == slot:
                bereft.append(slot)
        self._count = last
        moved = self._nearest[:last] == last
        self._nearest[:last][moved] = slot
        for other in {one for one in bereft if one < last}:
            self._find_nearest(other)

    def _find_nearest(self, slot: int) -> None:
        distances = self.distances(
            self.differences(self._vectors[:, slot]), float(self._times[slot])
        )
        distances[slot] = np.inf
        nearest = int(distances.argmin())
        known = bool(np.isfinite(distances[nearest]))
        self._nearest[slot] = nearest if known else _NONE
        self._gaps[slot] = distances[nearest]

    def _grow(self) -> None:
        self._vectors = _doubled(self._vectors)
        self._squares = _doubled(self._squares)
        self._times = _doubled(self._times)
        self._weights = _doubled(self._weights)
        self._nearest = _doubled(self._nearest)
        self._gaps = _doubled(self._gaps)


def _doubled(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    return np.concatenate([array, np.zeros_like(array)], axis=-1)
