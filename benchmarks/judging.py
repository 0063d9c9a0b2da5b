"""Reliability of the gate. Writes docs/results/judging.md.

    python benchmarks/judging.py --work DIR [--camvid DIR]

DIR is that of ``judging_pairs.py`` (and ``judging_camvid.py``), which make the candidates and
measure them with labels; here every pair is judged without. Evidence is kept in the work folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import judging_camvid
import judging_pairs
import torch
from evidence_file import from_json, to_json
from roadshift.adapt import load_network
from roadshift.adapt.judging.evidence import Evidence, gather
from roadshift.adapt.judging.verdict import decide
from roadshift.adapt.scoring.views import ScoredModel
from roadshift.runtime.bench.chart import Axis, Chart
from roadshift.runtime.bundle import open_bundle
from roadshift.runtime.frames.images import read_frame_image
from roadshift.runtime.verdict import Verdict

TESTED_SEEDS = (2, 3)  # source models of the pairs that test; the others set the thresholds
TOLERATED = 0.5  # points of mIoU
COLLAPSE = -3.0
WORTHWHILE = 3.0
DECISIONS = ("promote", "ask", "keep")
PAGE = Path("docs/results/judging.md")
# Each score alone: how much it speaks for the candidate, and what it would promote above.
ALONE: dict[str, tuple[str, Callable[[Evidence], float]]] = {
    "density": ("soft neighbourhood density", lambda e: e.scores["density"].difference),
    "information": ("information maximisation", lambda e: e.scores["information"].difference),
    "entropy": ("normalised entropy (less)", lambda e: -e.scores["entropy"].difference),
    "flip": ("consistency under flip", lambda e: e.scores["flip"].difference),
    "zoom": ("consistency under scale", lambda e: e.scores["zoom"].difference),
    "opinion": ("agreement with the second opinion", lambda e: e.scores["opinion"].difference),
    "histogram": ("class-histogram divergence (less)", lambda e: -e.scores["histogram"].candidate),
    "agreement": ("agreement where confident", lambda e: e.scores["agreement"].candidate),
    "area": ("area lost by a class (less)", lambda e: -max(e.lost.values(), default=1.0)),
    "shift": ("size of the shift", lambda e: e.scores["divergence"].incumbent or 0.0),
    "divergence": ("BN divergence (less)", lambda e: -e.scores["divergence"].difference),
}


@dataclass(frozen=True)
class Pair:
    """Incumbent and candidate, what labels say of them, and what was judged without."""

    shift: str
    seed: int
    incumbent: str
    way: str
    before: float  # mIoU, percent
    after: float
    evidence: Evidence
    verdict: Verdict

    @property
    def gain(self) -> float:
        """Points of mIoU."""
        return self.after - self.before

    @property
    def fails(self) -> bool:
        """Tell whether the gate promoted a harmful candidate."""
        return self.verdict.decision == "promote" and self.gain < -TOLERATED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--camvid", type=Path, help="judging_camvid.py's work folder")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = list(grid(arguments.work))
    real = list(camvid(arguments.camvid)) if arguments.camvid else []
    page: Path = arguments.page
    page.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(_plain(record(pair))) for pair in [*pairs, *real])
    page.with_suffix(".json").write_text(f"[\n{lines}\n]\n")
    pictures = page.parent.parent / "images"
    (pictures / "judging-verdicts.svg").write_text(verdicts_svg(pairs))
    (pictures / "judging-roc.svg").write_text(roc_svg(pairs))
    page.write_text(render(pairs, real))
    print(page.read_text())


# --- pairs ----------------------------------------------------------------------------------------


def grid(work: Path) -> Iterator[Pair]:
    """The source model and that of BN statistics as incumbents, every other one as candidate."""
    for seed, shift, ways in judging_pairs.cells():
        frames = judging_pairs.frames_of(work, shift, seed)[0]
        models = {"source": work / f"source-{seed}"}
        models |= {way: work / f"candidates/{shift}-{seed}-{way}" for way in ways}
        yield from pairs_of(work, shift, seed, models, frames, ways)


def camvid(work: Path) -> Iterator[Pair]:
    """Real frames: day to dusk, and to another route in daylight."""
    for source in sorted(work.glob("source-[0-9]")):
        seed = int(source.name[-1])
        for drive in judging_camvid.DRIVES:
            folder = work / f"candidates/{drive}-{seed}-"
            ways = [way for way in judging_camvid.WAYS if Path(f"{folder}{way}").exists()]
            models = {"source": source} | {way: Path(f"{folder}{way}") for way in ways}
            frames = work / f"frames/{drive}-adapt"
            yield from pairs_of(work, drive, seed, models, frames, ways)


def pairs_of(
    work: Path,
    shift: str,
    seed: int,
    models: dict[str, Path],
    frames: Path,
    ways: Sequence[str],
) -> Iterator[Pair]:
    measured = work / f"measured/{shift}-{seed}"
    for incumbent in ("source", "bn_stats"):
        for way in ways:
            if way == incumbent or not (models[way] / "manifest.json").exists():
                continue
            before, after = (
                json.loads((measured / f"{models[name].name}.json").read_text())["miou"]
                for name in (incumbent, way)
            )
            kept = work / f"evidence/{shift}-{seed}-{incumbent}-{way}.json"
            evidence = gathered(kept, models[incumbent], models[way], frames)
            names = open_bundle(models[way]).label_space.classes
            verdict = decide(evidence, names)
            yield Pair(shift, seed, incumbent, way, before, after, evidence, verdict)


def gathered(kept: Path, incumbent: Path, candidate: Path, frames: Path) -> Evidence:
    """Evidence on the frames set aside, kept at ``kept``."""
    if not kept.exists():
        images = (read_frame_image(path) for path in judging_pairs.judged_on(frames))
        evidence = gather(model_of(incumbent), model_of(candidate), images, torch.device("cpu"))
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(to_json(evidence)))
    return from_json(json.loads(kept.read_text()))


@cache
def model_of(path: Path) -> ScoredModel:
    bundle = open_bundle(path)
    return ScoredModel(load_network(bundle, torch.device("cpu")), bundle.manifest.input)


def record(pair: Pair) -> dict[str, Any]:
    """A pair for the file beside the page: a score is [incumbent's, candidate's, low, high]."""
    scores = pair.evidence.scores.items()
    return {
        "shift": pair.shift,
        "seed": pair.seed,
        "incumbent": pair.incumbent,
        "candidate": pair.way,
        "miou": [pair.before, pair.after],
        "verdict": pair.verdict.decision,
        "area_lost": max(pair.evidence.lost.values(), default=None),
        "scores": {name: [s.incumbent, s.candidate, s.low, s.high] for name, s in scores},
    }


# --- figures --------------------------------------------------------------------------------------


def tested(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs that set no threshold."""
    return [pair for pair in pairs if pair.seed in TESTED_SEEDS]


def summary(pairs: Sequence[Pair]) -> dict[str, float | None]:
    """Summary of the gate's decisions; shares in percent, None of nothing."""
    promoted = [pair for pair in pairs if pair.verdict.decision == "promote"]
    better = [pair for pair in pairs if pair.gain >= WORTHWHILE]
    none = [pair for pair in pairs if pair.shift == "none" and pair.incumbent == "source"]
    return {
        "pairs": len(pairs),
        "promoted": len(promoted),
        "harmless": _share(promoted, lambda pair: pair.gain >= -TOLERATED),
        "worst": min((pair.gain for pair in promoted), default=None),
        "better": len(better),
        "found": _share(better, lambda pair: pair.verdict.decision == "promote"),
        "nothing_to_gain": len(none),
        "left_alone": _share(
            none, lambda p: p.verdict.decision != "promote" or abs(p.gain) <= TOLERATED
        ),
    }


def _share(pairs: Sequence[Pair], holds: Callable[[Pair], bool]) -> float | None:
    return 100 * sum(map(holds, pairs)) / len(pairs) if pairs else None


def roc(pairs: Sequence[Pair], score: Callable[[Evidence], float]) -> list[tuple[float, float]]:
    """False and true promotions, shares of the worse and of the better, as the limit falls.

    Better is a candidate that gains more than ``TOLERATED``, worse one that loses more.
    """
    known = [(pair, score(pair.evidence)) for pair in pairs if pair.evidence.finite]
    rated = [(s, p.gain > 0) for p, s in known if abs(p.gain) > TOLERATED and not math.isnan(s)]
    rated.sort(key=lambda item: -item[0])
    good = sum(better for _, better in rated)
    bad = len(rated) - good
    points, hits, misses = [(0.0, 0.0)], 0, 0
    for index, (value, better) in enumerate(rated):
        hits, misses = hits + better, misses + (not better)
        if index + 1 == len(rated) or rated[index + 1][0] != value:
            points.append((misses / max(bad, 1), hits / max(good, 1)))
    return points


def area_under(points: Sequence[tuple[float, float]]) -> float:
    """Area under a curve from (0, 0) to (1, 1); 0.5 is chance."""
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(points))


def best_limit(pairs: Sequence[Pair], score: Callable[[Evidence], float]) -> float:
    """The limit of a score alone with the most right promotions on ``pairs``."""
    known = [(score(p.evidence), p.gain) for p in pairs if p.evidence.finite]
    known = [(s, gain) for s, gain in known if abs(gain) > TOLERATED and not math.isnan(s)]
    limits = sorted({s for s, _ in known})
    return max(limits, key=lambda limit: sum((s >= limit) == (gain > 0) for s, gain in known))


def gate_rate(pairs: Sequence[Pair]) -> tuple[float, float]:
    """The whole gate as one point beside the curves."""
    clear = [pair for pair in pairs if abs(pair.gain) > TOLERATED]
    bad, good = [p for p in clear if p.gain < 0], [p for p in clear if p.gain > 0]
    rates = [_share(group, lambda p: p.verdict.decision == "promote") for group in (bad, good)]
    return (rates[0] or 0.0) / 100, (rates[1] or 0.0) / 100


# --- page -----------------------------------------------------------------------------------------


def verdicts_svg(pairs: Sequence[Pair]) -> str:
    """Chart of the true difference across, the incumbent's shift upwards, the verdict as colour."""
    shown = [pair for pair in pairs if pair.evidence.finite]
    sizes = [max(pair.evidence.scores["divergence"].incumbent or 0.0, 1e-3) for pair in shown]
    gains = [pair.gain for pair in shown]
    chart = Chart(
        "Verdicts on pairs of incumbent and candidate",
        Axis("true difference in mIoU, points", min(gains) - 2, max(gains) + 2),
        Axis("shift of the incumbent, nats of BN divergence", 1e-3, max(sizes) * 1.3, True),
    )
    for pair, size in zip(shown, sizes, strict=True):
        chart.mark(pair.gain, size, DECISIONS.index(pair.verdict.decision), numbered=False)
    for index, decision in enumerate(DECISIONS):
        count = sum(pair.verdict.decision == decision for pair in shown)
        chart.legend(f"{decision} ({count})", index)
    return chart.render()


def roc_svg(pairs: Sequence[Pair]) -> str:
    """The curve of each score alone, and the whole gate as a dot."""
    test = tested(pairs)
    chart = Chart(
        "Each score alone, and the gate: tested pairs",
        Axis("worse candidates promoted, percent", 0, 100),
        Axis("better candidates promoted, percent", 0, 100),
    )
    for index, (title, score) in enumerate(ALONE.values()):
        points = roc(test, score)
        chart.curve([(100 * x, 100 * y) for x, y in points], index)
        chart.legend(f"{title}: {area_under(points):.2f}", index)
    false, true = gate_rate(test)
    chart.mark(100 * false, 100 * true, len(ALONE))
    chart.legend(f"the gate: {100 * true:.0f} % of the better", len(ALONE))
    return chart.render()


def render(pairs: Sequence[Pair], real: Sequence[Pair]) -> str:
    """The page, with its hand-written paragraphs from ``judging_page.md`` beside it."""
    page = Path(__file__).with_name("judging_page.md").read_text()
    values = {
        "summary": summary_table(pairs),
        "alone": alone_table(pairs),
        "shifts": shift_table(pairs),
        "failures": failure_table(pairs),
        "camvid": camvid_table(real),
        "pairs": str(len(pairs)),
    }
    for name, value in values.items():
        page = page.replace("{{" + name + "}}", value)
    return page


def summary_table(pairs: Sequence[Pair]) -> str:
    rows = {
        "pairs": "pairs",
        "promoted": "promoted",
        "harmless": "of these no worse by more than 0.5 points, %",
        "worst": "the worst of these, points",
        "better": "candidates better by 3 points or more",
        "found": "of these promoted, %",
        "nothing_to_gain": "pairs with nothing to gain (the source model on its own domain)",
        "left_alone": "of these not promoted, or within 0.5 points, %",
    }
    test = tested(pairs)
    groups = [summary([pair for pair in pairs if pair not in test]), summary(test)]
    lines = ["| | pairs that set thresholds | pairs that test |", "|---|---|---|"]
    return "\n".join(
        [
            *lines,
            *(
                f"| {title} | {' | '.join(_cell(g[key]) for g in groups)} |"
                for key, title in rows.items()
            ),
        ]
    )


def alone_table(pairs: Sequence[Pair]) -> str:
    """Area under the curve, and the collapses that a score alone would have promoted."""
    test = tested(pairs)
    setting = [pair for pair in pairs if pair not in test]
    collapses = [pair for pair in test if pair.gain <= COLLAPSE and pair.evidence.finite]
    lines = [
        "| score alone | area under its curve | collapses promoted | better ones promoted, % |",
        "|---|---|---|---|",
    ]
    better = [pair for pair in test if pair.gain >= WORTHWHILE]
    for title, score in ALONE.values():
        limit = best_limit(setting, score)
        through = [pair for pair in collapses if score(pair.evidence) >= limit]
        kept = sum(score(pair.evidence) >= limit for pair in better)
        found = 100 * kept / len(better) if better else None
        names = ", ".join(sorted({pair.way for pair in through}))
        lines.append(
            f"| {title} | {area_under(roc(test, score)):.2f} | {len(through)} of {len(collapses)}"
            f"{f' ({names})' if names else ''} | {_cell(found)} |"
        )
    whole = [pair for pair in collapses if pair.verdict.decision == "promote"]
    lines.append(
        f"| **the gate** | | {len(whole)} of {len(collapses)} | {_cell(summary(test)['found'])} |"
    )
    return "\n".join(lines)


def shift_table(pairs: Sequence[Pair]) -> str:
    lines = [
        "| shift | its size, nats | pairs | promote | ask | keep | gain of the promoted, points |",
        "|---|---|---|---|---|---|---|",
    ]
    sized = {
        shift: statistics.mean(
            pair.evidence.scores["divergence"].incumbent or 0.0
            for pair in pairs
            if pair.shift == shift and pair.incumbent == "source" and pair.evidence.finite
        )
        for shift in dict.fromkeys(pair.shift for pair in pairs)
    }
    for shift, size in sorted(sized.items(), key=lambda item: item[1]):
        own = [pair for pair in pairs if pair.shift == shift]
        gains = [pair.gain for pair in own if pair.verdict.decision == "promote"]
        counts = [sum(p.verdict.decision == decision for p in own) for decision in DECISIONS]
        span = f"{min(gains):+.1f} to {max(gains):+.1f}" if gains else "-"
        lines.append(
            f"| {shift} | {size:.3f} | {len(own)} | {' | '.join(map(str, counts))} | {span} |"
        )
    return "\n".join(lines)


def failure_table(pairs: Sequence[Pair]) -> str:
    """Table of the gate's errors: harmful candidates that it promoted, and gains that it missed."""
    wrong = [
        p for p in pairs if p.fails or (p.gain >= WORTHWHILE and p.verdict.decision != "promote")
    ]
    if not wrong:
        return "None."
    lines = ["| pair | true difference | verdict |", "|---|---|---|"]
    lines += [
        f"| {p.shift}, seed {p.seed}, {p.incumbent} to {p.way} | {p.gain:+.1f} | "
        f"{p.verdict.decision}: {p.verdict.sentence} |"
        for p in sorted(wrong, key=lambda p: p.gain)
    ]
    return "\n".join(lines)


def camvid_table(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return "Not measured with this version of the gate."
    lines = [
        "| drive | seed | incumbent | candidate | true mIoU | verdict | because |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {p.shift} | {p.seed} | {p.incumbent} | {p.way} | {p.before:.1f} to {p.after:.1f} | "
        f"**{p.verdict.decision}** | {p.verdict.sentence} |"
        for p in pairs
    ]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """NaN as null, for JSON; figures to five digits."""
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    main()
