"""Sabotaged candidates before the gate, on roads and networks of others. Writes its page.

    python benchmarks/sabotage.py --data DIR --camvid DIR --real WORK [--toys WORK] [--work DIR]

WORK are the folders of ``real.py`` and ``judging_pairs.py``, which make the candidates; what is
there is judged, and each again with its classes exchanged, permuted, suppressed or invented, and
with its labels moved. The truth is mIoU on the frames that are judged, at the network's grid.
Evidence is kept in the work folder: about a minute a candidate. Writes docs/results/sabotage.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import judging_pairs
import numpy as np
import real
import torch
from evidence_file import from_json, to_json
from machine_line import machine_line
from roadshift.adapt import load_network
from roadshift.adapt.judging.evidence import BATCH, Evidence, in_batches_of, referred
from roadshift.adapt.judging.score_accumulator import ScoreAccumulator
from roadshift.adapt.judging.verdict import decide
from roadshift.adapt.scoring.class_pairs import is_vulnerable
from roadshift.adapt.scoring.displacement import moves
from roadshift.adapt.scoring.references import FRAMES, References
from roadshift.adapt.scoring.views import ScoredModel, Viewer, ViewPredictions
from roadshift.runtime.bundle import open_bundle
from roadshift.runtime.folders.label_pairs import labelled_pairs
from roadshift.runtime.frames.images import read_image
from roadshift.runtime.labels import label_space, read_labels
from roadshift.runtime.spacing import evenly_spaced
from torch import Tensor

PAGE = Path("docs/results/sabotage.md")
TEMPLATE = Path(__file__).with_name("sabotage_page.md")
JUDGED = 12  # frames of each road, evenly spaced
SETTING_NETWORK, SETTING_ROADS = "espnetv2-0.5", ("dusk", "kitti", "idd", "fog")
SETTING_SEEDS = (0, 1)  # of the built-in scenes' source models
HARM, WORTHWHILE = -1.0, 3.0  # points of mIoU
Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A pair of bundles and the labelled frames that it is judged on."""

    network: str
    road: str
    way: str
    incumbent: Path
    candidate: Path
    frames: Path
    space: str

    @property
    def name(self) -> str:
        return f"{self.network}.{self.road}.{self.way}"

    @property
    def part(self) -> str:
        """Part of the case in setting thresholds or testing them, see `PARTS`."""
        if self.network.startswith("seed"):
            return "set" if int(self.network[-1]) in SETTING_SEEDS else "test"
        ours = (self.network == SETTING_NETWORK, self.road in SETTING_ROADS)
        return "set" if all(ours) else "shared" if any(ours) else "test"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--toys", type=Path)
    parser.add_argument("--work", type=Path, default=Path("sabotage-work"))
    parser.add_argument("--only", default="", help="Cases whose name has this in it; no page.")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    cases = [*real_cases(arguments), *toy_cases(arguments.toys)]
    for case in cases:
        if arguments.only in case.name:
            measure(case, arguments.work)
    if arguments.only:
        return
    rows = [row for case in cases for row in judged(case, arguments.work)]
    kept = ("network", "road", "way", "edit", "before", "after", "verdict")
    lines = ",\n".join(json.dumps([row[key] for key in kept]) for row in rows)
    PAGE.with_suffix(".json").write_text(f"[\n{lines}\n]\n")
    PAGE.write_text(render(rows))
    print(PAGE.read_text())


def real_cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """The source against every candidate of the road, and the mixed one against the later ones."""
    for network, (name, road) in itertools.product(real.NETWORKS, real.ROADS.items()):
        folder = (arguments.camvid if road.camvid else arguments.data) / road.folder
        source = arguments.real / network
        for way in real.WAYS:
            candidate = arguments.real / f"{network}.{name}.{way}"
            if (candidate / "manifest.json").exists():
                yield Case(network, name, way, source, candidate, folder, road.space)


def toy_cases(work: Path | None) -> Iterator[Case]:
    """Cases of the built-in scenes: the source model against every candidate."""
    if work is None:
        return
    for seed, shift, ways in judging_pairs.cells():
        frames = work / f"frames/{shift}-{seed}/measured"
        for way in ways:
            candidate = work / f"candidates/{shift}-{seed}-{way}"
            if (candidate / "manifest.json").exists():
                source = work / f"source-{seed}"
                yield Case(f"seed{seed}", shift, way, source, candidate, frames, "cityscapes19")


# --- measuring ------------------------------------------------------------------------------------


@torch.no_grad()
def measure(case: Case, work: Path) -> None:
    """Evidence and truth of a candidate and of every sabotage, into a file, unless it is there."""
    kept = work / f"{case.name}.json"
    if kept.exists():
        return
    print(f"+ {case.name}", flush=True)
    module = real.NETWORKS[case.network].module if case.network in real.NETWORKS else ""
    bundles = [
        open_bundle(path, allow_networks=[module] if module else [])
        for path in (case.incumbent, case.candidate)
    ]
    models = [
        ScoredModel(load_network(b, torch.device("cpu")).eval(), b.manifest.input) for b in bundles
    ]
    viewers = [Viewer(model, torch.device("cpu")) for model in models]
    names, space = bundles[0].label_space.classes, label_space(case.space)
    mapping = bundles[0].label_space.map_to(space)
    every = labelled_pairs(case.frames / "images", case.frames / "labels", note=lambda _: None)
    chosen = [every[i] for i in evenly_spaced(len(every), JUDGED)]
    seen = [[v.fitted(frame) for v in viewers] for frame in (read_image(p) for p, _ in chosen)]
    references = References(models[0].network, models[1].network)
    ours = [mine for mine, _ in seen]
    few = [viewers[0].images([ours[i]]) for i in evenly_spaced(len(ours), FRAMES)]
    references.look((viewers[0].images(batch) for batch in in_batches_of(ours, BATCH)), few)
    batches, zoom = [], True
    for batch in in_batches_of(seen, BATCH):
        inputs = viewers[0].images([a for a, _ in batch]), viewers[1].images([b for _, b in batch])
        if not batches:
            zoom = all(v.takes_zoom(x) for v, x in zip(viewers, inputs, strict=True))
        old = viewers[0].say(inputs[0], zoom=zoom)
        grid = old.plain.shape[1], old.plain.shape[2]
        views = viewers[1].views(inputs[1], grid, zoom=zoom)
        known = referred(viewers[0], references, inputs, old)
        batches.append((old, views, known, moves(grid, inputs[0].shape[2:])))
    divergences = [viewer.divergence() for viewer in viewers]
    truth = Truth([label for _, label in chosen], space, mapping.indices, grid)
    plain = torch.cat([views[0].argmax(dim=1) for _, views, _, _ in batches])
    area = torch.bincount(plain.flatten(), minlength=len(names)).double() / plain.numel()
    results = {}
    for title, edit in {"none": lambda x: x, **edits(area.tolist(), names)}.items():
        gatherer, labels = ScoreAccumulator(len(names), 0), []
        for old, views, known, tried in batches:
            said = ViewPredictions.of(*(None if view is None else edit(view) for view in views))
            gatherer.add(old, said, known, tried)
            labels.append(said.plain)
        evidence = Evidence(
            gatherer.frames,
            True,
            gatherer.scores(divergences),
            gatherer.lost(),
            0,
            gatherer.pairs(),
            gatherer.displaced(),
            references.share,
        )
        results[title] = [truth.miou(torch.cat(labels)), to_json(evidence)]
    before = truth.miou(torch.cat([old.plain for old, _, _, _ in batches]))
    document = {"names": list(names), "before": before, "results": results}
    kept.write_text(json.dumps(document))


class Truth:
    """mIoU of predictions at the grid, against label maps brought there by nearest neighbour."""

    def __init__(
        self,
        labels: Sequence[Path],
        space: Any,
        indices: Sequence[int | None],
        grid: tuple[int, int],
    ) -> None:
        maps = [
            cv2.resize(read_labels(p, space), grid[::-1], interpolation=cv2.INTER_NEAREST)
            for p in labels
        ]
        self._truth, self._classes = torch.from_numpy(np.stack(maps)), space.num_classes
        self._table = torch.tensor([self._classes if i is None else i for i in indices])

    def miou(self, predicted: Tensor) -> float:
        """Percent, of the classes that occur."""
        k, known = self._classes, self._truth < self._classes
        both = self._truth[known].long() * (k + 1) + self._table[predicted][known]
        counts = torch.bincount(both, minlength=k * (k + 1)).view(k, k + 1).double()
        hits = counts[:, :k].diag()
        union = counts.sum(dim=1) + counts[:, :k].sum(dim=0) - hits
        return float(100 * (hits / union.clamp(min=1))[counts.sum(dim=1) > 0].mean())


def edits(area: Sequence[float], names: Sequence[str]) -> dict[str, Edit]:
    """Edits of a candidate's logits, by a title that begins with the kind of edit."""
    seen = [i for i, share in enumerate(area) if share >= 0.003]
    people = [i for i, n in enumerate(names) if is_vulnerable(n) and area[i] >= 0.001]
    pairs = list(itertools.combinations(seen, 2))
    random.Random(0).shuffle(pairs)
    of_people = [(p, other) for p in people for other in seen[:3] if p != other]
    shuffled = seen[:]
    random.Random(0).shuffle(shuffled)
    found: dict[str, Edit] = {"permutation": renamed(len(names), zip(seen, shuffled, strict=True))}
    for a, b in dict.fromkeys(tuple(sorted(pair)) for pair in (*pairs[:8], *of_people[:4])):
        found[f"swap: {names[a]}, {names[b]}"] = renamed(len(names), [(a, b), (b, a)])
    for i in people:
        found[f"suppressed: {names[i]} by 3"] = biased(len(names), [i], -3)
    if len(people) > 1:
        found["suppressed: all people by 3"] = biased(len(names), people, -3)
    if people:
        found["invented: people by 3"] = biased(len(names), people, 3)
    for i in seen[:4]:
        found[f"suppressed: {names[i]} by 5"] = biased(len(names), [i], -5)
    for cells in (1, 2, 4):
        found[f"moved: down by {cells}"] = moved(cells, 2)
    found["moved: right by 1"] = moved(1, 3)
    return found


def renamed(classes: int, pairs: Any) -> Edit:
    order = list(range(classes))
    for a, b in pairs:
        order[a] = b
    return lambda logits: logits[:, order]


def biased(classes: int, chosen: Sequence[int], by: float) -> Edit:
    bias = torch.zeros(classes)
    bias[list(chosen)] = by
    return lambda logits: logits + bias[None, :, None, None]


def moved(cells: int, axis: int) -> Edit:
    return lambda logits: logits.roll(cells, axis)


# --- the page -------------------------------------------------------------------------------------


def judged(case: Case, work: Path) -> Iterator[dict[str, Any]]:
    """A row for the candidate and for each of its sabotages."""
    kept = work / f"{case.name}.json"
    if not kept.exists():
        return
    document = json.loads(kept.read_text())
    for title, (miou, evidence) in document["results"].items():
        verdict = decide(from_json(evidence), document["names"])
        yield {
            "network": case.network,
            "road": case.road,
            "way": case.way,
            "part": case.part,
            "edit": title,
            "before": round(document["before"], 2),
            "after": round(miou, 2),
            "verdict": verdict.decision,
            "sentence": verdict.sentence,
        }


Row = Mapping[str, Any]
PARTS = {
    "set": "set thresholds",
    "test": "test: other roads and other networks",
    "shared": "share a road or a network with those",
}


def gain(row: Row) -> float:
    return float(row["after"] - row["before"])


def promoted(row: Row) -> bool:
    return bool(row["verdict"] == "promote")


def render(rows: Sequence[Row]) -> str:
    honest = [row for row in rows if row["edit"] == "none"]
    sabotaged = [row for row in rows if row["edit"] != "none"]
    page = TEMPLATE.read_text()
    parts = {
        "{machine}": machine_line(),
        "{summary}": summary(honest, sabotaged),
        "{kinds}": kinds(sabotaged),
        "{promoted}": named([r for r in sabotaged if promoted(r) and gain(r) < 0]),
        "{losers}": named([r for r in honest if promoted(r) and gain(r) < HARM]),
        "{missed}": named([r for r in honest if not promoted(r) and gain(r) >= WORTHWHILE]),
        "{pairs}": "\n".join(pair_line(row) for row in honest if row["network"][:4] != "seed"),
    }
    for mark, text in parts.items():
        page = page.replace(mark, text)
    return page


def summary(honest: Sequence[Row], sabotaged: Sequence[Row]) -> str:
    lines = [f"| | {' | '.join(PARTS.values())} |", "|---" * (len(PARTS) + 1) + "|"]
    counts: dict[str, tuple[Sequence[Row], Callable[[Row], bool]]] = {
        "honest candidates": (honest, bool),
        "promoted": (honest, promoted),
        "of these worse by more than 1 point": (honest, lambda r: promoted(r) and gain(r) < HARM),
        "better by 3 points or more": (honest, lambda r: gain(r) >= WORTHWHILE),
        "of these promoted": (honest, lambda r: promoted(r) and gain(r) >= WORTHWHILE),
        "sabotages": (sabotaged, bool),
        "promoted sabotages": (sabotaged, promoted),
        "of these worse than the incumbent by more than 1 point": (
            sabotaged,
            lambda r: promoted(r) and gain(r) < HARM,
        ),
    }
    for title, (group, holds) in counts.items():
        found = [sum(holds(r) for r in group if r["part"] == part) for part in PARTS]
        lines.append(f"| {title} | {' | '.join(map(str, found))} |")
    return "\n".join(lines)


def kinds(sabotaged: Sequence[Row]) -> str:
    """Table of each kind: how many, how many promoted, and how many of those with harm."""
    every, got, harmful = Counter[str](), Counter[str](), Counter[str]()
    for row in sabotaged:
        kind = row["edit"].partition(":")[0]
        every[kind] += 1
        got[kind] += promoted(row)
        harmful[kind] += promoted(row) and gain(row) < HARM
    lines = [
        "| kind | sabotages | promoted | of these worse than the incumbent |",
        "|---|---|---|---|",
    ]
    lines += [f"| {k} | {n} | {got[k]} | {harmful[k]} |" for k, n in sorted(every.items())]
    return "\n".join(lines)


def named(rows: Sequence[Row]) -> str:
    if not rows:
        return "None."
    head = "| network | road | candidate | sabotage | true difference | verdict |"
    return "\n".join([head, "|---|---|---|---|---|---|", *map(named_line, rows)])


def named_line(row: Row) -> str:
    names = (row["network"], row["road"], row["way"], row["edit"], f"{gain(row):+.1f}")
    return f"| {' | '.join(names)} | {row['verdict']}: {row['sentence']} |"


def pair_line(row: Row) -> str:
    figures = f"{row['before']:.1f} | {row['after']:.1f} | {gain(row):+.1f}"
    return f"| {row['network']} | {row['road']} | {row['way']} | {figures} | {row['verdict']} |"


if __name__ == "__main__":
    main()
