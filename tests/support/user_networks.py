"""Networks as users write them, named ``user_networks:CLASS``: many heads, odd attributes, faults.

Each takes ``num_classes``, and images of stride 4 unless it says otherwise.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm, weight_norm
from torch.nn.utils.parametrizations import spectral_norm as new_spectral_norm
from torch.nn.utils.parametrizations import weight_norm as new_weight_norm

WIDTH = 8


def trunk() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, 2, 1),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, 2, 1),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(),
    )


class Base(nn.Module):
    """A trunk and a head; ``forward`` gives logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk()
        self.head: nn.Module = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.trunk(x))


# --- several heads --------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    """An auxiliary head on the first map and a main one, each at its own scale of values."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk()
        self.aux = nn.Conv2d(WIDTH, num_classes, 1)
        self.main = nn.Conv2d(WIDTH, num_classes, 1)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.trunk(x)
        return self.aux(f), self.main(f)


class AuxFirst(TwoHeads):
    def forward(self, x: Tensor) -> Any:
        return list(self.maps(x))


class MainFirst(TwoHeads):
    def forward(self, x: Tensor) -> Any:
        return self.maps(x)[::-1]


class Keys(TwoHeads):
    def forward(self, x: Tensor) -> Any:
        aux, main = self.maps(x)
        return {"aux": aux, "main": main}


class Nested(TwoHeads):
    def forward(self, x: Tensor) -> Any:
        aux, main = self.maps(x)
        return [{"side": aux, "end": main}, None]


@dataclass
class Fields:
    side: Tensor
    end: Tensor
    extra: None = None


class Dataclass(TwoHeads):
    def forward(self, x: Tensor) -> Any:
        return Fields(*self.maps(x))


class Resized(TwoHeads):
    """Both at the images' size, the heads only told apart by what was resized."""

    def forward(self, x: Tensor) -> Any:
        return tuple(F.interpolate(z, x.shape[2:], mode="bilinear") for z in self.maps(x))


# --- one head that is clear -----------------------------------------------------------------------


class OutAndAux(TwoHeads):
    """torchvision's: ``aux`` while training alone, and in that order."""

    def forward(self, x: Tensor) -> Any:
        aux, main = self.maps(x)
        answer = OrderedDict()
        if self.training:
            answer["aux"] = aux
        answer["out"] = F.interpolate(main, x.shape[2:], mode="bilinear")
        return answer


class LikePidnet(TwoHeads):
    """``[aux, main, boundary]`` while training, main alone while evaluating."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.boundary = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, x: Tensor) -> Any:
        aux, main = self.maps(x)
        if not self.training:
            return main
        return [aux, main, self.boundary(self.trunk(x))]


class OtherOrder(TwoHeads):
    """The main head first while training, a tuple of one while evaluating."""

    def forward(self, x: Tensor) -> Any:
        aux, main = self.maps(x)
        size = (x.shape[2], x.shape[3])
        if not self.training:
            return (F.interpolate(main, size, mode="bilinear"),)
        return [F.interpolate(z, size, mode="bilinear") for z in (main, aux)]


class MeanOfHeads(TwoHeads):
    """Every head while training, their mean while evaluating."""

    def forward(self, x: Tensor) -> Any:
        maps = self.maps(x)
        return maps if self.training else torch.stack(maps).mean(dim=0)


class WithoutGraph(TwoHeads):
    """All while training; the main one while evaluating, without a graph."""

    def forward(self, x: Tensor) -> Any:
        if self.training:
            return self.maps(x)
        with torch.no_grad():
            return self.maps(x)[1]


class Numbered(TwoHeads):
    """A dictionary with numbers for keys, and a list inside a tuple."""

    def forward(self, x: Tensor) -> Any:
        aux, main = self.maps(x)
        return ({7: main, 9: None}, [aux, aux])


class Synchronised(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.trunk = nn.SyncBatchNorm.convert_sync_batchnorm(self.trunk)


@dataclass
class ModelOutput:
    """As transformers' outputs."""

    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...]


class HuggingFace(Base):
    def forward(self, x: Tensor) -> Any:
        f = self.trunk(x)
        return ModelOutput(None, self.head(f), (f,))


class NamesFeatures(Base):
    def forward(self, x: Tensor) -> Any:
        f = self.trunk(x)
        return {"out": self.head(f), "features": f}


class Boundary(Base):
    """Logits, and a map that is no features."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.edge = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Any:
        f = self.trunk(x)
        return self.head(f), self.edge(f)


# --- heads of other kinds -------------------------------------------------------------------------


class Transposed(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = nn.ConvTranspose2d(WIDTH, num_classes, 2, 2)


class LinearTokens(Base):
    """A linear layer on tokens (B, h w, D), as transformers have it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, x: Tensor) -> Any:
        f = self.trunk(x)
        z = self.head(f.flatten(2).transpose(1, 2))
        return z.transpose(1, 2).reshape(len(f), -1, *f.shape[2:])


class LinearLast(LinearTokens):
    """A linear layer on maps with channels last."""

    def forward(self, x: Tensor) -> Any:
        return self.head(self.trunk(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormedTokens(LinearTokens):
    """As SegFormer and SETR end: a layer norm, whose tokens lie one after the other in memory."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        f = self.trunk(x)
        y = self.head(self.norm(f.flatten(2).transpose(1, 2).contiguous()))
        return y.transpose(1, 2).reshape(len(x), -1, *f.shape[2:])


class OneHeadEach(Base):
    """A convolution to one channel for each class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = nn.ModuleList(nn.Conv2d(WIDTH, 1, 1) for _ in range(num_classes))

    def forward(self, x: Tensor) -> Tensor:
        f = self.trunk(x)
        return torch.cat([head(f) for head in self.head], dim=1)


class Queries(Base):
    """As MaskFormer ends: classes of queries times masks of queries."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.queries = nn.Embedding(6, WIDTH)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        f = self.trunk(x)
        queries = self.queries.weight.expand(len(x), -1, -1)
        masks = torch.einsum("bqc,bchw->bqhw", queries, f).sigmoid()
        return torch.einsum("bqk,bqhw->bkhw", self.head(queries), masks)


class Softmax(Base):
    """Probabilities, as a demo wants them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x)).softmax(dim=1)


class SoftmaxWhenEvaluating(Base):
    """Logits for the loss, probabilities for whoever looks."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.trunk(x))
        return y if self.training else y.softmax(dim=1)


class LogSoftmax(Base):
    """The logarithm of probabilities, whose softmax they are."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x)).log_softmax(dim=1)


class NeedsGpu(Base):
    """A script's way to give up."""

    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit(f"no GPU for {len(x)} images")


class Einsum(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        del self.head
        self.classes = nn.Parameter(torch.randn(num_classes, WIDTH))

    def forward(self, x: Tensor) -> Any:
        return torch.einsum("kd,bdhw->bkhw", self.classes, self.trunk(x))


class Summed(Base):
    """DeepLab's: dilated convolutions of one map, added up."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        del self.head
        self.branches = nn.ModuleList(
            nn.Conv2d(WIDTH, num_classes, 3, 1, d, dilation=d) for d in (1, 2)
        )

    def forward(self, x: Tensor) -> Any:
        f = self.trunk(x)
        return sum(branch(f) for branch in self.branches)


class Normed(Base):
    """The head's scores go through batch norm and PReLU."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = nn.Sequential(
            nn.Conv2d(WIDTH, num_classes, 1), nn.BatchNorm2d(num_classes), nn.PReLU()
        )


class UnusedHead(Base):
    """A convolution with K outputs that nothing calls, and one that nothing uses."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.old_head = nn.Conv2d(WIDTH, num_classes, 1)
        self.side = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, x: Tensor) -> Any:
        f = self.trunk(x)
        self.side(f)
        return self.head(f)


class WideAsClasses(nn.Module):
    """Every layer has as many channels as there are classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, num_classes, 3, 4, 1),
            nn.ReLU(),
            nn.Conv2d(num_classes, num_classes, 3, 1, 1),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(num_classes, num_classes, 1)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


class MostlyDetached(Base):
    """The trunk does not learn from the head."""

    def forward(self, x: Tensor) -> Any:
        return self.head(self.trunk(x).detach())


# --- awkward to copy ------------------------------------------------------------------------------


class OldWeightNorm(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = weight_norm(self.head)


class NewWeightNorm(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = new_weight_norm(self.head)


class OldSpectralNorm(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = spectral_norm(self.head)


class NewSpectralNorm(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = new_spectral_norm(self.head)


class KeepsFeatures(Base):
    """A tensor that is no leaf stays on the module."""

    def forward(self, x: Tensor) -> Any:
        self.last = self.trunk(x)
        return self.head(self.last)


class HoldsThings(Base):
    """A network of what nothing can copy: a lock, a generator, a lambda, an open file, a module."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.lock = threading.Lock()
        self.numbers = (i for i in range(3))
        self.scale = lambda z: z * 1.0
        self.log = open(__file__, encoding="utf-8")  # noqa: SIM115 - held open is the point
        self.torch = torch

    def forward(self, x: Tensor) -> Any:
        with self.lock:
            return self.scale(super().forward(x))


class ListCalledModules(Base):
    """ESPNet's: a list called ``modules``, and more of torch's names."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.modules = [self.trunk, self.head]  # type: ignore[assignment]
        self.children = [self.trunk]  # type: ignore[assignment]
        self.parameters = 3  # type: ignore[assignment]
        self.float = "float"  # type: ignore[assignment]
        self.type = "small"  # type: ignore[assignment]


class FrozenTrunk(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        for parameter in self.trunk.parameters():
            parameter.requires_grad = False

    def train(self, mode: bool = True) -> FrozenTrunk:
        super().train(mode)
        self.trunk.eval()
        return self


class AllFrozen(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.requires_grad_(False)


class HalfWeights(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.half()


class DoubleWeights(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.double()


class ChangesImages(Base):
    def forward(self, x: Tensor) -> Any:
        x -= 0.5
        return super().forward(x)


class HiddenBuffer(Base):
    """A buffer that no state dict holds."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("gain", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * self.gain


class DataParallel(nn.DataParallel):
    def __init__(self, num_classes: int) -> None:
        super().__init__(Base(num_classes))


class Pooled(Base):
    """Batch norm behind global pooling."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(WIDTH, WIDTH, 1), nn.BatchNorm2d(WIDTH)
        )

    def forward(self, x: Tensor) -> Any:
        f = self.trunk(x)
        return self.head(f + self.pool(f))


class FrozenInPlace(Base):
    """Changes in place what the gradient of ``gain`` would need, were it not frozen."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.gain = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Any:
        f = self.trunk[:-1](x)
        g = self.gain * f
        f += g
        return self.head(f)


class RemembersDetached(Base):
    """Adds the last images' features, which it keeps without their graph."""

    last: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        f = self.trunk(x)
        before = self.last if self.last is not None and self.last.shape == f.shape else 0 * f
        self.last = f.detach()
        return self.head(f + 0.5 * before)


def named(num_classes: int, name: str) -> nn.Module:
    """A factory as zoos have it, which is told the network's name."""
    return {"base": Base, "transposed": Transposed}[name](num_classes)


# --- that cannot be used --------------------------------------------------------------------------


class InPlace(Base):
    """Changes in place what the gradient of ``side`` needs."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.side = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Any:
        f = self.trunk(x)
        g = self.side(f)
        f += g
        return self.head(f)


class KeepsGraph(Base):
    """Adds the last images' features, graph and all."""

    last: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        f = self.trunk(x)
        before = self.last if self.last is not None and self.last.shape == f.shape else 0 * f
        self.last = f + 0.5 * before
        return self.head(self.last)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        return x * 2


class NoBackward(Base):
    """Ends in a function without a backward."""

    def forward(self, x: Tensor) -> Any:
        return _Doubled.apply(super().forward(x))


class NoBackwardWhenWide(Base):
    """The same for images of another width than 64."""

    def forward(self, x: Tensor) -> Any:
        z = super().forward(x)
        return z if x.shape[3] == 64 else _Doubled.apply(z)


class NotFinite(Base):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) / 0


class NotFiniteWhileTraining(Base):
    def forward(self, x: Tensor) -> Any:
        z = super().forward(x)
        return (z - z.amax()).log() if self.training else z


class LearnsElsewhere(Base):
    """The one weight that learns makes nothing of the logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.requires_grad_(False)
        self.unused = nn.Parameter(torch.zeros(3))


class WantsSize(Base):
    def forward(self, x: Tensor) -> Any:
        assert x.shape[2:] == (512, 1024), "images must be 512x1024"
        return super().forward(x)


class FixedPositions(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.positions = nn.Parameter(torch.zeros(1, WIDTH, 5, 7))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.trunk(x) + self.positions)


class WantsTargets(Base):
    def forward(self, x: Tensor, targets: Tensor) -> Any:  # type: ignore[override]
        return F.cross_entropy(self.head(self.trunk(x)), targets)


class WantsLabelsWhileTraining(Base):
    def forward(self, x: Tensor, y: Any = None) -> Any:
        z = super().forward(x)
        return (z.argmax(1), F.cross_entropy(z, y)) if self.training else z


class LossWhileTraining(Base):
    def forward(self, x: Tensor) -> Any:
        z = super().forward(x)
        return {"loss": z.mean()} if self.training else z


class _OfOnePart(nn.Module):
    part: type[nn.Module]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.whole = self.part(num_classes)

    def forward(self, x: Tensor) -> Any:
        return self.whole(x)


class WantsLabelsInItsHead(_OfOnePart):
    part = WantsLabelsWhileTraining


class LossOfItsHeadWhileTraining(_OfOnePart):
    part = LossWhileTraining


class OnCuda(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.to("cuda")


class ImagesToCuda(Base):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.to("cuda"))


class CastsImages(Base):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.half())


class OneChannel(nn.Module):
    def __init__(self, num_classes: int) -> None:  # noqa: ARG002 - as some are
        super().__init__()
        self.only = nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Any:
        return self.only(x)


class GrowsWeights(Base):
    def forward(self, x: Tensor) -> Any:
        if not hasattr(self, "late"):
            self.late = nn.Parameter(torch.zeros(1))
        return super().forward(x) + self.late


class Lazy(Base):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = nn.LazyConv2d(num_classes, 1)


class NeverAGraph(Base):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


class Detached(Base):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).detach()


class NoForward(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, num_classes, 1)


_ONLY: list[nn.Module] = []


def the_same(num_classes: int) -> nn.Module:
    """One network for all callers."""
    if not _ONLY:
        _ONLY.append(Base(num_classes))
    return _ONLY[0]


class Unregistered(Base):
    """The head's weight is a tensor with gradient that is no parameter."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        del self.head
        self.classes = torch.randn(num_classes, WIDTH, 1, 1, requires_grad=True)

    def forward(self, x: Tensor) -> Any:
        return F.conv2d(self.trunk(x), self.classes)


class ShadowsTrain(Base):
    """Whose trunk's ``train`` is no method any more."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.trunk.train = True  # type: ignore[assignment]


class HooksItself(Base):
    """A network that hooks its trunk when it is first called, and notes that it has."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.hooked, self.seen = False, 0

    def forward(self, x: Tensor) -> Any:
        if not self.hooked:
            self.trunk.register_forward_hook(self._count)
            self.hooked = True
        self.seen = 0
        answer = super().forward(x)
        assert self.seen == 1, "a trunk was counted twice"
        return answer

    def _count(self, *_: Any) -> None:
        self.seen += 1
