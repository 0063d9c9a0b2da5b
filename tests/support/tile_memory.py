"""Bytes that IAPC's loss adds to a process, forward and backward: tile_memory.py HEIGHT WIDTH."""

import resource
import sys

import torch
from roadshift.adapt.losses.iapc import IapcWeights, iapc_terms

height, width = map(int, sys.argv[1:])


def step(rows: int, columns: int) -> None:
    z, t, s = (torch.randn(1, 19, rows // 8, columns // 8, requires_grad=True) for _ in range(3))
    weights = IapcWeights(0.2, 0.5, 0.1, 0.02)
    size = (rows, columns)
    terms = iapc_terms(z, t, s, None, size, align_corners=True, weights=weights, kernel="tiled")
    torch.stack(list(terms.values())).sum().backward()


step(64, 128)  # what torch loads once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(height, width)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
