"""Names of SegFormer's weights in published files, and by which of ours each goes.

Ours are those of Hugging Face's published files. Three others are told from them:

==================  =========================================  ====================================
file                its encoder                                what is more than another name
==================  =========================================  ====================================
the authors'        ``backbone.patch_embed1.proj.weight``,     ``attn.kv`` holds key and value, in
                    ``backbone.block1.0.attn.q.weight``        this order
mmsegmentation's    ``backbone.layers.0.0.projection.weight``  ``in_proj`` holds query, key, value;
                                                               1x1 convolutions are linear layers;
                                                               the decoder is another one, which
                                                               joins the maps from the first on
transformers 5, in  ``segformer.stages.0.blocks.0...``
memory
==================  =========================================  ====================================

Each rule of a table is a pattern of the whole name behind any prefix; the first that fits is taken,
and a name that none fits (a loss, an auxiliary head) stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...runtime.errors import NetworkError


class _Rule(NamedTuple):
    """A pattern of a name, and the names here that its tensor is shared out to, in equal rows."""

    pattern: re.Pattern[str]
    names: tuple[str, ...]


_E, _D = "segformer.encoder", "decode_head"


def _table(*rules: tuple[str, str | tuple[str, ...]], start: str) -> tuple[_Rule, ...]:
    """Rules; ``#`` is a number counted from 0, ``$`` one counted from 1, ``*`` a tensor's kind."""
    made = []
    for pattern, names in rules:
        text = re.escape(pattern).replace(r"\#", r"(\d+)").replace(r"\$", r"([1-4])")
        text = text.replace(r"\*", r"(weight|bias|running_mean|running_var|num_batches_tracked)")
        every = (names,) if isinstance(names, str) else names
        made.append(_Rule(re.compile(rf"(?P<prefix>.*?){start}{text}"), every))
    return tuple(made)


# {0}, {1}...: the groups of the pattern; a stage counted from 1 there is {0-1} here.
_AUTHORS_ENCODER = (
    ("patch_embed$.proj.*", f"{_E}.patch_embeddings.{{0-1}}.proj.{{1}}"),
    ("patch_embed$.norm.*", f"{_E}.patch_embeddings.{{0-1}}.layer_norm.{{1}}"),
    ("block$.#.norm1.*", f"{_E}.block.{{0-1}}.{{1}}.layer_norm_1.{{2}}"),
    ("block$.#.norm2.*", f"{_E}.block.{{0-1}}.{{1}}.layer_norm_2.{{2}}"),
    ("block$.#.attn.q.*", f"{_E}.block.{{0-1}}.{{1}}.attention.self.query.{{2}}"),
    (
        "block$.#.attn.kv.*",
        (
            f"{_E}.block.{{0-1}}.{{1}}.attention.self.key.{{2}}",
            f"{_E}.block.{{0-1}}.{{1}}.attention.self.value.{{2}}",
        ),
    ),
    ("block$.#.attn.sr.*", f"{_E}.block.{{0-1}}.{{1}}.attention.self.sr.{{2}}"),
    ("block$.#.attn.norm.*", f"{_E}.block.{{0-1}}.{{1}}.attention.self.layer_norm.{{2}}"),
    ("block$.#.attn.proj.*", f"{_E}.block.{{0-1}}.{{1}}.attention.output.dense.{{2}}"),
    ("block$.#.mlp.fc1.*", f"{_E}.block.{{0-1}}.{{1}}.mlp.dense1.{{2}}"),
    ("block$.#.mlp.dwconv.dwconv.*", f"{_E}.block.{{0-1}}.{{1}}.mlp.dwconv.dwconv.{{2}}"),
    ("block$.#.mlp.fc2.*", f"{_E}.block.{{0-1}}.{{1}}.mlp.dense2.{{2}}"),
    ("norm$.*", f"{_E}.layer_norm.{{0-1}}.{{1}}"),
)
_AUTHORS_DECODER = (
    ("linear_c$.proj.*", f"{_D}.linear_c.{{0-1}}.proj.{{1}}"),
    ("linear_fuse.conv.weight", f"{_D}.linear_fuse.weight"),
    ("linear_fuse.bn.*", f"{_D}.batch_norm.{{0}}"),
    ("linear_pred.*", f"{_D}.classifier.{{0}}"),
)
_MMSEG_ENCODER = (
    ("layers.#.0.projection.*", f"{_E}.patch_embeddings.{{0}}.proj.{{1}}"),
    ("layers.#.0.norm.*", f"{_E}.patch_embeddings.{{0}}.layer_norm.{{1}}"),
    ("layers.#.1.#.norm1.*", f"{_E}.block.{{0}}.{{1}}.layer_norm_1.{{2}}"),
    ("layers.#.1.#.norm2.*", f"{_E}.block.{{0}}.{{1}}.layer_norm_2.{{2}}"),
    (
        "layers.#.1.#.attn.attn.in_proj_*",
        tuple(
            f"{_E}.block.{{0}}.{{1}}.attention.self.{part}.{{2}}"
            for part in ("query", "key", "value")
        ),
    ),
    ("layers.#.1.#.attn.attn.out_proj.*", f"{_E}.block.{{0}}.{{1}}.attention.output.dense.{{2}}"),
    ("layers.#.1.#.attn.sr.*", f"{_E}.block.{{0}}.{{1}}.attention.self.sr.{{2}}"),
    ("layers.#.1.#.attn.norm.*", f"{_E}.block.{{0}}.{{1}}.attention.self.layer_norm.{{2}}"),
    ("layers.#.1.#.ffn.layers.0.*", f"{_E}.block.{{0}}.{{1}}.mlp.dense1.{{2}}"),
    ("layers.#.1.#.ffn.layers.1.*", f"{_E}.block.{{0}}.{{1}}.mlp.dwconv.dwconv.{{2}}"),
    ("layers.#.1.#.ffn.layers.4.*", f"{_E}.block.{{0}}.{{1}}.mlp.dense2.{{2}}"),
    ("layers.#.2.*", f"{_E}.layer_norm.{{0}}.{{1}}"),
)
_MMSEG_DECODER = (
    ("convs.#.conv.weight", f"{_D}.linear_c.{{0}}.conv.weight"),
    ("convs.#.bn.*", f"{_D}.linear_c.{{0}}.bn.{{1}}"),
    ("fusion_conv.conv.weight", f"{_D}.linear_fuse.weight"),
    ("fusion_conv.bn.*", f"{_D}.batch_norm.{{0}}"),
    ("conv_seg.*", f"{_D}.classifier.{{0}}"),
)
_TRANSFORMERS = (
    ("patch_embeddings.proj.*", f"{_E}.patch_embeddings.{{0}}.proj.{{1}}"),
    ("patch_embeddings.layer_norm.*", f"{_E}.patch_embeddings.{{0}}.layer_norm.{{1}}"),
    ("blocks.#.layernorm_before.*", f"{_E}.block.{{0}}.{{1}}.layer_norm_1.{{2}}"),
    ("blocks.#.layernorm_after.*", f"{_E}.block.{{0}}.{{1}}.layer_norm_2.{{2}}"),
    ("blocks.#.attention.q_proj.*", f"{_E}.block.{{0}}.{{1}}.attention.self.query.{{2}}"),
    ("blocks.#.attention.k_proj.*", f"{_E}.block.{{0}}.{{1}}.attention.self.key.{{2}}"),
    ("blocks.#.attention.v_proj.*", f"{_E}.block.{{0}}.{{1}}.attention.self.value.{{2}}"),
    ("blocks.#.attention.o_proj.*", f"{_E}.block.{{0}}.{{1}}.attention.output.dense.{{2}}"),
    (
        "blocks.#.attention.sequence_reduction.sequence_reduction.*",
        f"{_E}.block.{{0}}.{{1}}.attention.self.sr.{{2}}",
    ),
    (
        "blocks.#.attention.sequence_reduction.layer_norm.*",
        f"{_E}.block.{{0}}.{{1}}.attention.self.layer_norm.{{2}}",
    ),
    ("blocks.#.mlp.fc1.*", f"{_E}.block.{{0}}.{{1}}.mlp.dense1.{{2}}"),
    ("blocks.#.mlp.dwconv.dwconv.*", f"{_E}.block.{{0}}.{{1}}.mlp.dwconv.dwconv.{{2}}"),
    ("blocks.#.mlp.fc2.*", f"{_E}.block.{{0}}.{{1}}.mlp.dense2.{{2}}"),
    ("layer_norm.*", f"{_E}.layer_norm.{{0}}.{{1}}"),
)
_TABLES = {
    "authors": (
        re.compile(r"(^|\.)patch_embed1\.proj\.weight$"),
        (
            *_table(*_AUTHORS_ENCODER, start=r"(?:backbone\.)?"),
            *_table(*_AUTHORS_DECODER, start=r"decode_head\."),
        ),
    ),
    "mmsegmentation": (
        re.compile(r"(^|\.)layers\.0\.0\.projection\.weight$"),
        (
            *_table(*_MMSEG_ENCODER, start=r"(?:backbone\.)?"),
            *_table(*_MMSEG_DECODER, start=r"decode_head\."),
        ),
    ),
    "transformers": (
        re.compile(r"(^|\.)stages\.0\.patch_embeddings\.proj\.weight$"),
        (
            *_table(*_TRANSFORMERS, start=r"(?:segformer\.)?stages\.(\d+)\."),
            *_table(
                ("linear_projections.#.proj.*", f"{_D}.linear_c.{{0}}.proj.{{1}}"),
                start=r"decode_head\.",
            ),
        ),
    ),
}
_LINEAR = re.compile(r"mlp\.dense[12]\.weight$")  # 1x1 convolutions in mmsegmentation
_FIRST_TO_LAST = re.compile(r"fusion_conv\.conv\.weight$")  # its columns; here the last is first
_STAGES = 4


def in_published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a checkpoint under the names that `SegFormer` has.

    Prefixes (``state_dict.``, ``module.``) stay. What is in these names already, or in none that is
    known, comes back as it is.
    """
    for mark, rules in _TABLES.values():
        if any(mark.search(name) for name in tensors):
            renamed: dict[str, Tensor] = {}
            for name, tensor in tensors.items():
                renamed.update(_renamed(name, tensor, rules))
            return renamed
    return dict(tensors)


def _renamed(name: str, tensor: Tensor, rules: tuple[_Rule, ...]) -> dict[str, Tensor]:
    for pattern, names in rules:
        found = pattern.fullmatch(name)
        if found is None:
            continue
        if len(names) > 1 and (tensor.ndim == 0 or len(tensor) % len(names)):
            break  # of another shape; the message on names that are missing says the rest
        if _FIRST_TO_LAST.search(name):
            tensor = _last_to_first(tensor)
        groups, prefix = found.groups()[1:], found["prefix"]
        parts = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
        here = [prefix + _PLACE.sub(_filled(groups), pattern_name) for pattern_name in names]
        return {n: _as_linear(n, part) for n, part in zip(here, parts, strict=True)}
    return {name: tensor}


def detect_segformer_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """``num_classes`` and ``decoder`` of a SegFormer whose weights are ``state``, by its names.

    Raises:
        NetworkError: no name is of a SegFormer's decoder.
    """
    convolutions = "decode_head.convs.0.conv.weight" in state
    convolutions |= "decode_head.linear_c.0.conv.weight" in state
    ends = ("classifier", "linear_pred", "conv_seg")  # the authors' conv_seg is never asked
    found = [state[n] for end in ends if (n := f"decode_head.{end}.weight") in state]
    if not found:
        raise NetworkError(
            "the weights are not in a layout of SegFormer's (decode_head.classifier, .linear_pred "
            f"or .conv_seg); found {', '.join(list(state)[:5])}."
        )
    return {
        "num_classes": len(found[0]),
        "decoder": "convolutions" if convolutions else "linear",
    }


_PLACE = re.compile(r"\{(\d)(-1)?\}")


def _filled(groups: tuple[str, ...]) -> Callable[[re.Match[str]], str]:
    def fill(place: re.Match[str]) -> str:
        group = groups[int(place[1])]
        return str(int(group) - 1) if place[2] else group

    return fill


def _as_linear(name: str, tensor: Tensor) -> Tensor:
    if _LINEAR.search(name) and tensor.ndim == 4:
        return tensor.flatten(1)
    return tensor


def _last_to_first(tensor: Tensor) -> Tensor:
    """Weights of the joined maps with the columns of the last map first, as `SegFormer` joins."""
    if tensor.ndim < 2 or tensor.shape[1] % _STAGES:
        return tensor  # of another shape, which is refused by it
    return torch.cat(tensor.chunk(_STAGES, dim=1)[::-1], dim=1)
