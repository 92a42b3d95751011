"""The page as a browser lays it out: nothing overflows a phone, and its colours are there, in the light and in the dark."""

import json
import re
import shutil
import subprocess
from collections import Counter
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.compiled_page import compiled_example
from data.quantized_page import example
from PIL import Image

from qvit.tools.page import render

pytestmark = pytest.mark.browser

MEASURE = """
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement, width = frame.clientWidth;
  const inside = (e) => e.closest("thead") || e.closest("svg") && e.tagName != "svg";
  const wide = [...page.querySelectorAll("body *")].filter(e => !inside(e) && e.getBoundingClientRect().right > width + 0.5);
  const small = [...page.querySelectorAll("body *")].filter(
    e => e.innerText && parseFloat(page.defaultView.getComputedStyle(e).fontSize) < 12);
  document.body.dataset.found = JSON.stringify({
    width: width, scroll: root.scrollWidth, height: root.scrollHeight, columns: page.querySelectorAll("tbody tr").length,
    wide: wide.map(e => e.outerHTML.slice(0, 120)), small: small.map(e => e.outerHTML.slice(0, 120)),
    display: page.defaultView.getComputedStyle(page.querySelector("tbody td")).display,
  });
};
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.fail("these tests look at the page in Chromium, which is not installed: apt-get install chromium")
    return found


LONG = ("attn", "attention" + "_x" * 80)


@pytest.fixture(scope="module", params=["quantized", "compiled"])
def text(request: pytest.FixtureRequest) -> str:
    """A page with every section open, one name far longer than a phone is wide."""
    page = render.page(example(LONG).facts) if request.param == "quantized" else compiled_example(LONG).page
    return page.replace("<details", "<details open")


def browse(chromium: str, folder: Path, text: str, width: int, *options: str) -> str:
    """Load the page in a frame of this width: a window cannot be as narrow as a phone. Returns the outer document."""
    (folder / "frame.html").write_text(
        f'<!DOCTYPE html><body style="margin:0"><iframe style="border:0;display:block" width="{width}" height="1200"'
        f' srcdoc="{escape(text)}"></iframe><script>{MEASURE}</script>',
        encoding="utf-8",
    )
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1400,1200"]
    command += [f"--user-data-dir={folder / 'profile'}", *options, (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_overflows(chromium: str, tmp_path: Path, text: str, width: int) -> None:
    dom = browse(chromium, tmp_path, text, width, "--virtual-time-budget=20000", "--dump-dom")
    match = re.search(r'data-found="([^"]*)"', dom)
    assert match is not None
    found: dict[str, Any] = json.loads(unescape(match[1]))
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["small"] == []
    assert found["columns"] > 160
    assert found["display"] == ("block" if width < 700 else "table-cell")


SCHEMES = {"light": [], "dark": ["--blink-settings=preferredColorScheme=0"]}


def palette(scheme: str) -> dict[str, tuple[int, ...]]:
    """The colours of the style sheet; those of the dark scheme come last."""
    css = Path(render.__file__).with_name("page.css").read_text()
    part = css.partition("@media (prefers-color-scheme: dark)")[0 if scheme == "light" else 2]
    found = dict(re.findall(r"--(\w+): #(\w+);", part.partition("\n* {")[0]))
    return {name: tuple(bytes.fromhex(v if len(v) == 6 else "".join(2 * c for c in v))) for name, v in found.items()}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [390, 1280])
def test_colours(chromium: str, tmp_path: Path, text: str, width: int, scheme: str) -> None:
    shot = tmp_path / "page.png"
    browse(chromium, tmp_path, text, width, f"--screenshot={shot}", *SCHEMES[scheme])
    with Image.open(shot) as image:
        rows = np.asarray(image.convert("RGB").crop((0, 0, width, 1200)))
    pixels = Counter(map(tuple, rows.reshape(-1, 3).tolist()))
    colours = palette(scheme)
    assert pixels.most_common(1)[0][0] in (colours["paper"], colours["card"])
    forms = (
        ("integer", "quantize", "dequantize")
        if "Scheme best" in text
        else ("integer", "float", "quantize", "dequantize")
    )
    for form in forms:
        assert pixels[colours[form]] > (500 if len(forms) == 4 else 20), form
    other = palette("dark" if scheme == "light" else "light")
    assert not any(pixels[other[form]] for form in ("integer", "float"))


def test_hostile_names_run_nothing(chromium: str, tmp_path: Path) -> None:
    """What the script in the name would leave behind is not there."""
    name = "<img src=x onerror=\"parent.document.body.dataset.ran='yes'\"><script>parent.document.body.dataset.ran=1</script>"
    for text in (render.page(example(("attn", name)).facts), compiled_example(("attn", name)).page):
        dom = browse(chromium, tmp_path, text, 1280, "--virtual-time-budget=20000", "--dump-dom")
        assert "data-found=" in dom
        assert "data-ran=" not in dom


def luminance(colour: tuple[int, ...]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    light, dark = sorted(map(luminance, (a, b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_contrast(scheme: str) -> None:
    """WCAG AA: 4.5 for text, 3 for graphics."""
    colours = palette(scheme)
    for ground in ("paper", "card"):
        for name in ("text", "soft", "link"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in ("integer", "float", "quantize", "dequantize"):
            assert contrast(colours[name], colours[ground]) >= 3, (name, ground)
    for name in ("integer", "float", "quantize", "dequantize"):  # on the lanes and bars
        assert contrast(colours[name], colours["line"]) >= 2.5, name
