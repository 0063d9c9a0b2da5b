"""Reports: every number is the document's, text is escaped, nothing is fetched; card and bill."""

import json
import os
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleets import Fleet
from processes import python_output
from report_cases import BENCH, COMPARISON, EVALUATION, full_bundle, judged_bundles
from roadshift.runtime.bundle import BundleWriter, open_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import ConfigError, OutputError
from roadshift.runtime.frames import open_frames
from roadshift.runtime.frames.images import write_image
from roadshift.runtime.reporting.card import model_card
from roadshift.runtime.reporting.charts import bars, lines
from roadshift.runtime.reporting.html import STYLE, Section, page, rounded, table
from roadshift.runtime.reporting.materials import bill_of_materials
from roadshift.runtime.reporting.pictures import picture_sections
from roadshift.runtime.reporting.report import write_report
from signed_bundles import small_bundle


class Page(HTMLParser):
    """The values of a page's ``data`` elements, its text, its links, and its embedded JSON."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.values: list[float] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.said = ""
        self.landmarks: list[str] = []
        self.document: Any = None
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self._script = tag == "script"
        if tag == "data":
            self.values.append(float(found["value"] or ""))
        if tag == "nav" or found.get("role") == "region":
            self.landmarks.append(found["aria-label"] or "")
        self.links += [found[key] or "" for key in ("src", "href") if key in found]
        if tag == "img":
            assert found["alt"]
        if tag == "svg" and "aria-hidden" not in found:
            assert found["role"] == "img"
            assert found["aria-label"]

    def handle_data(self, data: str) -> None:
        if self._script:
            self.document = json.loads(data)
            self._script = False
        else:
            self.said += data


def numbers(document: Any) -> list[float]:
    """Every number of a document, nested or not."""
    if isinstance(document, dict):
        return [n for value in document.values() for n in numbers(value)]
    if isinstance(document, list):
        return [n for value in document for n in numbers(value)]
    is_number = isinstance(document, (int, float)) and not isinstance(document, bool)
    return [float(document)] if is_number else []


@pytest.mark.parametrize(
    ("name", "document"), [("eval", EVALUATION), ("bench", BENCH), ("compare", COMPARISON)]
)
def test_every_number_is_the_documents(tmp_path: Path, name: str, document: Any) -> None:
    path = write_report(tmp_path / "r.html", results={name: document})
    page = Page(path.read_text())
    assert page.document["results"] == {name: document}
    assert sorted(set(page.values)) == sorted(set(numbers(document)))
    assert all(link.startswith(("#", "data:")) for link in page.links)


def test_a_comparison_names_the_classes_that_were_lost(tmp_path: Path) -> None:
    lost = {"collapsed": True, "classes_lost": ["truck", "bus"]}
    rows = [{**COMPARISON[0], "classes_lost": []}, {**COMPARISON[1], **lost}]
    said = write_report(tmp_path / "r.html", results={"compare": rows}).read_text()
    assert re.findall(r"<td class='text'>([^<]*)</td>", said) == ["none", "truck, bus"]


def test_cells_stand_where_their_column_does() -> None:
    sentence = "The candidate is steadier when a frame is mirrored."
    found = table("t", ["a", "b", "c"], [["x", None, True], ["y", 0.5, sentence]])
    assert found.count("class=number") == 1
    assert "<td class='number'>–</td><td class='text'>yes</td>" in found
    assert f"<td class='long'>{sentence}</td>" in found
    pages = [Section("One", name="one"), Section("Two", name="two")]
    assert ["<nav" in page("p", pages[:count]) for count in (1, 2)] == [False, True]


def test_a_page_of_bundles_says_it_all_and_runs_nothing(tmp_path: Path) -> None:
    full_bundle(tmp_path / "one")
    first = open_bundle(tmp_path / "one")
    second = small_bundle(tmp_path / "two", 1, first.hash)
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(5):
        write_image(frames / f"{number}.png", np.full((20, 30, 3), 50 * number, np.uint8))
    pictures = picture_sections([first, second], open_frames(frames), open_with=open_engine)
    assert len(pictures[0].pictures) == 3
    path = write_report(tmp_path / "r.html", [first, second], pictures=pictures)
    text = path.read_text()
    page = Page(text)
    for said in ("keep the incumbent", "The <b>car</b> is gone.", "Nobody signed this model."):
        assert said in page.said
    assert "<b>car</b>" not in text
    assert {0.5, 0.25, -0.5, 0.125, 0.75, 33.5} <= set(page.values)
    assert page.document["bundles"][1]["provenance"]["parent"] == first.hash
    assert "one (" in page.said, "the lineage names the model before"
    assert page.tags.count("img") == 3
    assert page.tags.count("script") == 1
    assert "default-src 'none'" in text
    assert all(link.startswith(("#", "data:")) for link in page.links)


def test_landmarks_of_several_bundles_have_names_of_their_own(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "r.html", judged_bundles(tmp_path)).read_text())
    assert sorted(set(page.landmarks)) == sorted(page.landmarks)
    for parent in ("one", "two"):
        assert f"{tmp_path / parent / 'model'}: Signs" in page.landmarks
    assert "v1: Signatures" in page.landmarks


def test_long_words_may_be_broken_and_short_ones_may_not() -> None:
    path = "/data/drives/2026-11-30/front/"
    found = table("t", ["a", "b", "c"], [["x", "2026-11-30T03:22:53Z", path]])
    assert "<td class='text'>2026-11-30T03:22:53Z</td>" in found
    assert f"<td class='long'>{path}</td>" in found
    rules = dict(re.findall(r"^(td\.\w+)[^{\n]*\{ overflow-wrap: (\w+)", STYLE, re.M))
    assert rules == {"td.fact": "anywhere", "td.text": "inherit", "td.long": "anywhere"}


def test_a_page_of_slots_has_their_audit(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.running(1)
    page = Page(write_report(tmp_path / "r.html", slots=fleet.store).read_text())
    assert page.document["audit"] == [asdict(record) for record in fleet.store.audit()]
    for event in ("created", "installed", "tried", "committed"):
        assert event in page.said
    signed = Page(write_report(tmp_path / "s.html", [open_bundle(tmp_path / "v1")]).read_text())
    assert fleet.key.public.id[:12] in signed.said


def test_what_cannot_be_reported_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="give at least one"):
        write_report(tmp_path / "r.html")
    monkeypatch.setattr("roadshift.runtime.reporting.report.MOST_BYTES", 1000)
    with pytest.raises(OutputError, match="report on fewer"):
        write_report(tmp_path / "r.html", results={"eval": EVALUATION})
    assert not (tmp_path / "r.html").exists()


def test_charts_take_what_histories_hold() -> None:
    nan = float("nan")
    assert "nothing was recorded" in lines("L", {"a": [(1, nan)]}, x="step", y="y")
    drawn = lines("L", {"a": [(i, i * 0.5) for i in range(5000)], "b": [(3, 7.0)]}, x="s", y="y")
    assert drawn.count("<path") == 2
    assert len(drawn) < 15_000
    assert "nothing was measured" in bars("B", [("a", nan)], unit="%")
    assert [rounded(v) for v in (3, 1234567, 0.0, 12.345, 0.000123)] == [
        *("3", "1,234,567", "0.00", "12.35", "0.000123"),
    ]


def test_a_card_has_front_matter_that_the_hub_reads(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    full_bundle(tmp_path / "one")
    text = model_card(open_bundle(tmp_path / "one"), EVALUATION)
    _, front, body = re.split(r"^---$", text, maxsplit=2, flags=re.M)
    found = yaml.safe_load(front)
    assert found["pipeline_tag"] == "image-segmentation"
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == EVALUATION["miou"]
    assert "keep: The <b>car</b> is gone." in body


def test_a_card_names_the_images_that_eval_measured_on(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "one")
    images, labels = tmp_path / "dusk" / os.fsdecode(b"im\xff"), tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    write_image(images / "0.png", np.full((16, 32, 3), 90, np.uint8))
    write_image(labels / "0.png", np.zeros((16, 32), np.uint8))
    command = ("-m", "roadshift.cli")
    said = python_output(
        *command, "eval", bundle.path, "--images", images, "--labels", labels, "--json"
    )
    (tmp_path / "eval.json").write_text(said)
    assert json.loads(said)["images"].startswith(str(tmp_path))
    text = python_output(*command, "card", bundle.path, "--eval", tmp_path / "eval.json")
    assert re.search(r'^      name: "dusk/im[^"]+xff"$', text, re.M)
    assert str(tmp_path) not in text
    for unsaid in ({}, {"images": ".."}, {"images": "/"}, {"images": ""}):
        assert '"frames of the user"' in model_card(bundle, {**EVALUATION, **unsaid})
    assert '      name: "D"' in model_card(bundle, {**EVALUATION, "images": "../D/"})


def test_a_bill_names_every_file_and_is_the_same_each_time(tmp_path: Path) -> None:
    full_bundle(tmp_path / "one")
    bundle = open_bundle(tmp_path / "one")
    bill = bill_of_materials(bundle)
    assert bill == bill_of_materials(open_bundle(bundle.path))
    files = {c["name"]: c["hashes"][0]["content"] for c in bill["components"] if "hashes" in c}
    assert files["manifest.json"] == bundle.hash
    assert set(files) == {"manifest.json", "model.onnx", "history.jsonl"}
    known = {c["bom-ref"] for c in bill["components"]} | {"model"}
    assert {ref for d in bill["dependencies"] for ref in (d["ref"], *d["dependsOn"])} == known


def test_what_is_no_commands_document_is_a_sentence(tmp_path: Path) -> None:
    for name, document in (
        ("eval", BENCH),
        ("eval", {"iou": {}}),
        ("eval", {**EVALUATION, "iou": {"road": "much"}}),
        ("bench", EVALUATION),
        ("compare", {"a": 1}),
        ("judge", []),
        ("export", [1]),
        ("other", [1, 2]),
        ("other", 5),
    ):
        with pytest.raises(
            ConfigError, match=f"'{name}' is not the JSON document of roadshift {name}"
        ):
            write_report(tmp_path / "r.html", results={name: document})


def test_many_classes_with_long_names_stay_on_the_page(tmp_path: Path) -> None:
    names = [f"\"class\" <{i}> & 'so' on " + "very " * 60 for i in range(200)]
    document = {**EVALUATION, "iou": {name: i / 2 for i, name in enumerate(names)}}
    page = write_report(tmp_path / "r.html", results={"eval": document}).read_text()
    found = Page(page)
    assert found.document["results"]["eval"] == document
    assert sorted(set(found.values)) == sorted(set(numbers(document)))
    heights = [int(h) for h in re.findall(r"<svg viewBox='0 0 720 (\d+)'", page)]
    assert len(heights) == 8
    assert max(heights) < 900, "a sheet of paper holds one"
    shown = re.findall(r"<text x='232'[^>]*>([^<]*)<", page)
    assert max(len(re.sub("&[^;]+;", "x", name)) for name in shown) <= 30


def test_a_long_history_and_odd_losses_are_a_small_page(tmp_path: Path) -> None:
    path = tmp_path / "b"
    base = small_bundle(path)
    odd = {"huge": 1.7e308, "tiny": 5e-324, "text": "nan", "none": None, "flat": 1.0}
    history = "".join(
        json.dumps(
            {"stage": "s", "step": i, "losses": {"ce": 1 / i, **(odd if i % 2 else {"huge": 0})}}
        )
        + "\n"
        for i in range(1, 20_000)
    )
    with BundleWriter(path, overwrite=True, base=base) as writer:
        writer.add_bytes("history.jsonl", history.encode(), kind="history")
        writer.commit()
    page = write_report(tmp_path / "r.html", [open_bundle(path)]).read_text()
    assert len(page) < 200_000
    assert not any("n" in drawn for drawn in re.findall(r"<path d='([^']*)'", page))
    bars("one", [("a", 5e-324), ("b", 1.7e308)], unit="%")
    for low, high in ((-1.7e308, 1.7e308), (0.0, 5e-324), (1.0, 1.0 + 2**-52)):
        assert "<svg" in lines("l", {"a": [(0, low), (1, high)]}, x="x", y="y")


def test_a_years_audit_fits_on_the_page(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.running(1)
    with pytest.MonkeyPatch.context() as few:
        few.setattr("roadshift.runtime.reporting.report._MOST_RECORDS", 2)
        page = Page(write_report(tmp_path / "r.html", slots=fleet.store).read_text())
    assert "2 records before these were checked, too" in page.said
    assert "committed" in page.said
    assert "created" not in page.said


def test_a_card_of_something_else_is_a_sentence(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "b")
    for document in (BENCH, {}, {"miou": None}, 5):
        with pytest.raises(ConfigError, match="is not the JSON document of roadshift eval"):
            model_card(bundle, document)  # type: ignore[arg-type]
