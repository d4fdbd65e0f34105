#!/usr/bin/env python3
"""Opens reports in a real headless Chromium, as a person would: on a phone and on a wide screen, light and dark, and on paper.

    scripts/python.sh scripts/check_pages.py report.html …
    scripts/python.sh scripts/check_pages.py --binary target/debug/driftline --store ./driftline-data/store
    scripts/python.sh scripts/check_pages.py --screenshots shots report.html

Of each page: nothing is wider than the screen; text has a contrast of at least 4.5 (WCAG 2.2, 1.4.3) and is large enough to read; every chart
has a name and a table behind it; every link leads somewhere; nothing is loaded, nothing is logged; it stays below 2 MB. Before that a page with
each of these faults is opened, and every one of them must be found.

Ends with 77 where there is no Chromium (apt-get install chromium), or fails where nothing may be skipped (DRIFTLINE_REQUIRE_ALL=1).
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.parse

BYTES_MAX = 2_000_000
WIDTHS = (390, 1440)
SCHEMES = ("light", "dark")

# What a page is asked; everything behind a fold is opened first.
ASK = r"""
() => {
  const complaints = [];
  const say = (kind, text) => complaints.push([kind, String(text).slice(0, 160)]);
  document.querySelectorAll('details').forEach(fold => { fold.open = true; });
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > wide) say('overflow', `the page is ${document.documentElement.scrollWidth} wide, the screen ${wide}`);
  const scrolls = element => { for (let at = element; at; at = at.parentElement) if (['auto', 'scroll'].includes(getComputedStyle(at).overflowX)) return true; return false; };
  for (const element of document.body.querySelectorAll('*')) {
    if (element.ownerSVGElement || scrolls(element)) continue;
    if (element.getBoundingClientRect().right > wide + 1) say('overflow', `<${element.tagName.toLowerCase()}> ${element.textContent.slice(0, 60)}`);
  }
  // Text of a chart that leaves its picture is cut off.
  for (const text of document.querySelectorAll('svg text')) {
    const [of, its] = [text.ownerSVGElement.getBoundingClientRect(), text.getBoundingClientRect()];
    if (its.left < of.left - 1 || its.right > of.right + 1 || its.bottom > of.bottom + 1 || its.top < of.top - 1) say('cut', text.textContent);
  }
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = color => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const known = new Map();
  const of_color = color => { if (!known.has(color)) known.set(color, rgba(color)); return known.get(color); };
  const over = (top, below) => { const a = top[3] / 255; return [0, 1, 2].map(i => top[i] * a + below[i] * (1 - a)).concat(255); };
  const behind = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) { const color = of_color(getComputedStyle(at).backgroundColor); if (color[3] > 0) layers.push(color); if (color[3] === 255) break; }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 255]);
  };
  const light = color => { const [r, g, b] = color.map(c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (one, other) => { const [a, b] = [light(one), light(other)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const judged = new Set();
  let count = 0;
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || judged.has(element) || element.closest('title,style')) continue;
    judged.add(element);
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    if (style.visibility === 'hidden' || style.display === 'none' || box.width === 0) continue;
    count += 1;
    const ground = behind(element.ownerSVGElement ? element.ownerSVGElement.parentElement : element);
    const ink = over(of_color(element.ownerSVGElement ? style.fill : style.color), ground);
    const ratio = contrast(ink, ground);
    if (ratio < 4.5) say('contrast', `${ratio.toFixed(2)}: ${texts.currentNode.data.trim()}`);
    const scale = element.ownerSVGElement ? element.getScreenCTM().a : 1;
    const size = parseFloat(style.fontSize) * scale;
    if (size < 9) say('small', `${size.toFixed(1)} px: ${texts.currentNode.data.trim()}`);
  }
  if (count === 0) say('empty', 'there is no text');
  const parts = [...document.querySelectorAll('svg, table')];
  parts.forEach((part, at) => {
    if (part.tagName.toLowerCase() !== 'svg') return;
    if (part.getAttribute('role') !== 'img' || !part.getAttribute('aria-label')) say('name', part.outerHTML.slice(0, 80));
    const next = parts[at + 1];
    if (!next || next.tagName !== 'TABLE' || next.querySelectorAll('tr').length < 2 || !next.querySelector('th')) say('table', part.getAttribute('aria-label'));
  });
  for (const link of document.querySelectorAll('a[href]')) {
    const target = link.getAttribute('href');
    if (!target.startsWith('#') || !document.getElementById(target.slice(1))) say('link', target);
  }
  if (document.querySelector('script, iframe, object, embed')) say('script', 'it has one');
  if (!document.documentElement.lang || !document.title) say('title', 'no language, or no title');
  if (document.querySelectorAll('h1').length !== 1) say('title', 'one first heading, not more');
  return complaints;
}
"""

# Each of the faults, once; what is found in it must be all of them.
BROKEN = """<!doctype html><html><head><meta name="viewport" content="width=device-width"><title>broken</title></head>
<body style="background:#fff;color:#000"><h1>one</h1><h1>two</h1><p style="width:3000px">wide</p><p style="color:#999">faint</p>
<p style="font-size:5px">small</p><svg viewBox="0 0 100 100" width="100" height="100"><text x="90" y="50">leaves its picture</text></svg>
<a href="#nowhere">link</a><img src="http://127.0.0.1:9/x.png"><script>console.error('broken')</script></body></html>"""
KINDS = {"overflow", "contrast", "small", "cut", "name", "table", "link", "script", "title", "console", "loaded"}


def chromium() -> str | None:
    named = os.environ.get("DRIFTLINE_TEST_CHROMIUM")
    return named or next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


def skip(reason: str) -> None:
    if os.environ.get("DRIFTLINE_REQUIRE_ALL") == "1":
        sys.exit(f"FAILED: {reason}, and nothing may be skipped")
    print(f"SKIPPED: {reason}")
    sys.exit(77)


class Browser:
    """A page at a time, each in a context of its own."""

    def __init__(self, playwright, executable: str) -> None:
        # Root may not use Chromium's sandbox; what is opened is our own.
        self.browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage"])

    def complaints(self, path: pathlib.Path, width: int, scheme: str, screenshot: pathlib.Path | None) -> list[tuple[str, str]]:
        context = self.browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, device_scale_factor=1)
        found: list[tuple[str, str]] = []
        page = context.new_page()
        page.on("console", lambda line: found.append(("console", line.text)) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: found.append(("console", str(error))))
        here = path.resolve().as_uri()
        page.on("request", lambda request: found.append(("loaded", request.url)) if request.url != here else None)
        page.goto(here)
        if screenshot:
            screenshot.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=screenshot, full_page=True)
        found += [(kind, text) for kind, text in page.evaluate(ASK)]
        if width == max(WIDTHS) and scheme == "light":
            # A4 at 96 dots an inch.
            page.set_viewport_size({"width": 794, "height": 1123})
            page.emulate_media(media="print")
            found += [(f"paper {kind}", text) for kind, text in page.evaluate(ASK) if kind in ("overflow", "cut")]
        context.close()
        return found


def reports(binary: str, store: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """A report of each model of a store."""
    query = ["sql", "-c", "SELECT DISTINCT model_name FROM windows ORDER BY 1", "--format", "csv"]
    said = subprocess.run([binary, "--store", store, *query], check=True, capture_output=True, text=True).stdout
    pages = []
    for model in said.splitlines()[1:]:
        page = folder / f"{urllib.parse.quote(model, safe='')}.html"
        subprocess.run([binary, "--store", store, "report", "--model", model, "--out", str(page)], check=True, capture_output=True)
        pages.append(page)
    if not pages:
        sys.exit(f"FAILED: {store} has no model")
    return pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=pathlib.Path)
    parser.add_argument("--binary", help="makes a report of each model of --store")
    parser.add_argument("--store")
    parser.add_argument("--screenshots", type=pathlib.Path)
    args = parser.parse_args()
    executable = chromium()
    if not executable:
        skip("there is no Chromium (apt-get install chromium; or DRIFTLINE_TEST_CHROMIUM names one)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip("this Python has no playwright (scripts/python.sh installs it)")

    failed = 0
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        scratch = pathlib.Path(folder)
        browser = Browser(playwright, executable)
        broken = scratch / "broken.html"
        broken.write_text(BROKEN, encoding="utf-8")
        missed = KINDS - {kind for kind, _ in browser.complaints(broken, 390, "light", None)}
        if missed:
            sys.exit(f"FAILED: faults that are there are not found: {', '.join(sorted(missed))}")
        pages = list(args.pages)
        if args.binary:
            pages += reports(args.binary, args.store, scratch)
        if not pages:
            sys.exit("FAILED: no page is named")
        for page in pages:
            size = page.stat().st_size
            if size >= BYTES_MAX:
                failed += 1
                print(f"FAILED  {page.name}: {size} bytes, {BYTES_MAX} at most")
            for width in WIDTHS:
                for scheme in SCHEMES:
                    shot = args.screenshots / f"{page.stem}-{width}-{scheme}.png" if args.screenshots else None
                    found = browser.complaints(page, width, scheme, shot)
                    failed += len(found)
                    print(f"{'FAILED' if found else 'ok':<7} {page.name} ({size} bytes) at {width}, {scheme}: {len(found)} complaint(s)")
                    for kind, text in found[:15]:
                        print(f"          {kind}: {text}")
    print(f"{len(pages)} page(s), {len(pages) * len(WIDTHS) * len(SCHEMES)} views, {failed} complaint(s)")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
