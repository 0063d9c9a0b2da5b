"""Reports in a browser: no complaint, nothing cut off or broken at any width, readable aloud."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from fleets import Fleet
from report_cases import BENCH, COMPARISON, EVALUATION, judged_bundles
from roadshift.runtime.reporting.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

# A word of up to 24 characters is broken where its rectangles, one a line, are several.
MEASURE = """<script>document.getElementById('f').onload = e => {
  const page = e.target.contentDocument, broken = []; let cells = 0
  for (const cell of page.querySelectorAll('td, th')) {
    const texts = page.createTreeWalker(cell, NodeFilter.SHOW_TEXT); cells++
    while (texts.nextNode()) for (const word of texts.currentNode.data.matchAll(/[\\w:]+/g)) {
      const range = page.createRange()
      range.setStart(texts.currentNode, word.index)
      range.setEnd(texts.currentNode, word.index + word[0].length)
      if (word[0].length <= 24 && range.getClientRects().length > 1) broken.push(word[0])
    }
  }
  const found = document.createElement('pre'); found.id = 'found'
  const root = page.documentElement
  found.textContent = JSON.stringify([root.scrollWidth - root.clientWidth, cells, broken])
  document.body.append(found)
}</script>"""


def browsed_page(folder: Path) -> Path:
    """A report of several bundles, of measurements, and of slots."""
    bundles = judged_bundles(folder)
    (folder / "car").mkdir()
    fleet = Fleet(folder / "car")
    fleet.running(1)
    results = {"eval": EVALUATION, "bench": BENCH, "compare": COMPARISON}
    return write_report(folder / "r.html", bundles, results=results, slots=fleet.store)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")
def test_a_browser_shows_the_page_without_a_complaint(tmp_path: Path) -> None:
    path = browsed_page(tmp_path)
    for width in (390, 800, 1400):
        shot = tmp_path / f"{width}.png"
        log = tmp_path / f"{width}.json"
        flags = (f"--window-size={width},1600", f"--screenshot={shot}", f"--log-net-log={log}")
        said = browser(path, *flags)
        assert "CONSOLE" not in said.stderr
        assert shot.stat().st_size > 10_000
        assert asked_for(log) == set()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")
def test_it_is_not_the_policy_alone_that_keeps_a_page_from_the_network(tmp_path: Path) -> None:
    path, log = browsed_page(tmp_path), tmp_path / "log.json"
    free = re.sub(r"<meta http-equiv.*?>\n", "", path.read_text())
    path.write_text(free)
    browser(path, f"--screenshot={tmp_path / 'shot.png'}", f"--log-net-log={log}")
    assert asked_for(log) == set()
    greedy = "<img src='http://127.0.0.1:9/x'><link rel=preconnect href='http://else.invalid'>"
    path.write_text(free.replace("</body>", f"{greedy}</body>"))
    browser(path, f"--screenshot={tmp_path / 'shot.png'}", f"--log-net-log={log}")
    assert asked_for(log) >= {"http://127.0.0.1:9/x", "http://else.invalid"}  # it would show


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")
@pytest.mark.parametrize("width", [390, 800, 1400])
def test_a_page_is_no_wider_than_its_window_and_keeps_short_words(
    tmp_path: Path, width: int
) -> None:
    page = browsed_page(tmp_path)
    outer = tmp_path / "outer.html"  # a window is never narrower than 500 pixels, a frame may be
    outer.write_text(f"<iframe id=f src='{page.name}' width={width} height=900></iframe>{MEASURE}")
    flags = ("--dump-dom", "--virtual-time-budget=10000", "--allow-file-access-from-files")
    shown = browser(outer, *flags).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', shown)
    assert found is not None
    overhang, cells, broken = json.loads(unescape(found[1]))
    assert overhang <= 0
    assert cells > 20
    assert broken == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")
def test_axe_finds_nothing(tmp_path: Path) -> None:
    axe = Path(__file__).parents[3] / "build" / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("axe-core is not installed: npm install --prefix build axe-core")
    path = browsed_page(tmp_path)
    text = re.sub(r"<meta http-equiv.*?>\n", "", path.read_text())
    run = (
        "axe.run().then(r => { const p = document.createElement('pre'); p.id = 'found';"
        "p.textContent = JSON.stringify([r.passes.length, r.violations.map(v => [v.id, "
        "v.nodes.map(n => n.html.slice(0, 120))])]); document.body.append(p) })"
    )
    path.write_text(text.replace("</body>", f"<script src='{axe}'></script><script>{run}</script>"))
    shown = browser(path, "--dump-dom", "--virtual-time-budget=10000").stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', shown)
    assert found is not None
    passes, violations = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">"))
    assert passes > 10
    assert violations == []


def asked_for(log: Path) -> set[str]:
    """Addresses that a page asked for, and hosts that it looked up, of the browser's net log.

    What the browser asks for by itself, such as the time, has no page as its initiator.
    """
    asked = set[str]()
    for event in json.loads(log.read_text())["events"]:
        said = event.get("params", {})
        if said.get("initiator", "not an origin") != "not an origin" and "url" in said:
            asked.add(said["url"])
        if said.get("network_anonymization_key", "").startswith("file:") and "host" in said:
            asked.add(said["host"])
    return asked


def browser(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    flags += ["--disable-background-networking", "--no-first-run"]
    return subprocess.run(
        [CHROMIUM, *flags, *options, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
