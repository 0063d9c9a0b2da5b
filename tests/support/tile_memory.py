"""Peaks of a process, in bytes, after IAPC's loss: tile_memory.py HEIGHT WIDTH [HEIGHT WIDTH]."""

import resource
import sys

import torch
from roadshift.adapt.losses.iapc import IapcWeights, iapc_terms


def step(rows: int, columns: int) -> None:
    z, t, s = (torch.randn(1, 19, rows // 8, columns // 8, requires_grad=True) for _ in range(3))
    weights = IapcWeights(0.2, 0.5, 0.1, 0.02)
    size = (rows, columns)
    terms = iapc_terms(z, t, s, None, size, align_corners=True, weights=weights, kernel="tiled")
    torch.stack(list(terms.values())).sum().backward()


step(64, 128)  # what torch loads once
sizes = [int(word) for word in sys.argv[1:]]
for size in zip(sizes[::2], sizes[1::2], strict=True):  # the smaller first: a peak only rises
    step(*size)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
