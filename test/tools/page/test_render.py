"""The page holds what the facts say, stands alone, and takes no orders from the names in a model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import ir_text
import pytest
from data.quantized_page import Example, example, wide_example
from data.small_vit import Variant, quantized
from data.tool_call import Tool, contents

from qvit.tools.page.facts import Form, module_facts
from qvit.tools.page.render import page

VOID = {"meta", "br"}
HOSTILE = "<script>alert('x')</script>\"&amp;' onload=x href=https://x.invalid"


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    content: list["Element | str"] = field(default_factory=list["Element | str"])

    @property
    def inside(self) -> list["Element"]:
        return [part for part in self.content if isinstance(part, Element)]

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.content)

    def walk(self) -> Iterator["Element"]:
        yield self
        for element in self.inside:
            yield from element.walk()

    def all(self, tag: str, css: str = "") -> list["Element"]:
        return [
            e for e in self.walk() if e.tag == tag and (not css or css in (e.attributes.get("class") or "").split())
        ]

    @property
    def words(self) -> str:
        parts = (part if isinstance(part, str) else f" {part.words} " for part in self.content)
        return " ".join("".join(parts).split())


class Tree(HTMLParser):
    """A strict reader: every element is closed where HTML wants it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        assert len(element.attributes) == len(attrs)
        self.open[-1].content.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].content.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)


@pytest.fixture(scope="module")
def vit() -> Example:
    return example()


@pytest.fixture(scope="module")
def tree(vit: Example) -> Element:
    return Tree(page(vit.facts)).root


def test_every_operation_has_one_row(vit: Example, tree: Element) -> None:
    rows = [row for body in tree.all("tbody") for row in body.all("tr")]
    assert len(rows) == len(vit.facts.ops)
    shown = sorted((row.all("span", "kind")[0].words, row.all("span", "src")[0].text) for row in rows)
    assert shown == sorted((op.kind, op.src[-1] if op.src else "unnamed") for op in vit.facts.ops)
    for form in Form:
        assert len(tree.all("tr", f"is-{form}")) == sum(op.form is form for op in vit.facts.ops)


def test_rows_say_shape_scale_range_and_reason(tree: Element) -> None:
    (row,) = [r for r in tree.all("tr", "is-float") if "/blocks.1/attn/pv/MatMul" in r.words and "matmul" in r.words]
    assert "operand not quantized: lhs is made by" in row.words
    (row,) = [r for r in tree.all("tr") if r.words.startswith("quantize image_QuantizeLinear")]
    assert re.fullmatch(
        r"quantize image_QuantizeLinear 1x2x4x6 ui8 from f32 0\.0\d+ zero point \d+ −\d\.\d+ to \d\.\d+", row.words
    )


def test_strips_show_the_flow(vit: Example, tree: Element) -> None:
    strips = [svg for flow in tree.all("span", "flow") for svg in flow.all("svg")]
    assert len(strips) == len(vit.facts.blocks)
    for strip, block in zip(strips, vit.facts.blocks, strict=True):
        drawn = [e.attributes["class"] for e in strip.inside if e.attributes.get("class") != "lane"]
        assert drawn == [op.form.value for op in block.flow]
    bars = tree.all("ol", "overview")[0].all("svg")
    assert len(bars) == len(vit.facts.blocks)
    for bar, block in zip(bars, vit.facts.blocks, strict=True):
        widths = {str(e.attributes["class"]): float(e.attributes["width"] or 0) for e in bar.inside}
        assert widths == {f.value: round(1000 * n / len(block.flow), 2) for f in Form if (n := block.count(f))}
    for link in tree.all("a"):
        assert len([e for e in tree.walk() if f"#{e.attributes.get('id')}" == link.attributes["href"]]) == 1


def test_the_remarks_are_all_there(vit: Example, tree: Element) -> None:
    places = [item.all("span", "src")[0].text for listed in tree.all("ul", "places") for item in listed.all("li")]
    groups = [*vit.facts.blocked, *vit.facts.notes, *vit.facts.declined]
    assert places == [remark.src for group in groups for remark in group.remarks]
    summaries = [summary.words for summary in tree.all("summary")]
    for group in groups:
        assert summaries.count(" ".join(f"{len(group.remarks)} × {group.rule} : {group.reason}".split())) == 1
    titles = [title.text for title in tree.all("h2")]
    assert f"Blocked: {len(vit.report.blocked)}" in titles
    assert f"Notes: {len(vit.report.notes)}" in titles


def test_the_head_of_the_page(vit: Example, tree: Element) -> None:
    assert tree.all("h1")[0].text == tree.all("title")[0].text.removesuffix(" – qvit") == "vit.onnx"
    share = f"{vit.facts.macs.share:.1%}".replace("%", " %").replace("\u00a0", " ")
    big = [e.words for e in tree.all("p", "big")]
    assert big == [share, str(sum(len(b.flow) for b in vit.facts.blocks)), "No", str(len(vit.report.moved))]


def test_the_page_stands_alone(vit: Example) -> None:
    text = page(vit.facts)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link|<img|<iframe|\bon\w+=", text)
    assert all((e.attributes["href"] or "").startswith("#") for e in Tree(text).root.all("a"))
    assert "default-src 'none'" in text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text


def test_equal_models_give_equal_pages(vit: Example) -> None:
    assert page(example().facts) == page(vit.facts)


def test_hostile_names_are_text() -> None:
    hostile = example(("attn", HOSTILE))
    text = page(hostile.facts)
    assert "<script" not in text
    root = Tree(text).root
    assert {e.tag for e in root.walk()} == {e.tag for e in Tree(page(example().facts)).root.walk()}
    known = {"class", "id", "href", "title", "style", "role", "aria-label", "lang", "charset", "name", "content",
             "http-equiv", "viewbox", "preserveaspectratio", "x", "y", "width", "height", "d"}  # fmt: skip
    assert {name for e in root.walk() for name in e.attributes} <= known
    assert sum(f"/blocks.0/{HOSTILE}/Softmax" == e.text for e in root.all("span", "src")) == 1
    for name in ("<b>.onnx", "a&b.onnx"):
        facts = module_facts(hostile.module, name, (name,), None, [])
        assert Tree(page(facts)).root.all("h1")[0].text == name


def test_a_large_model_is_a_small_page() -> None:
    facts = wide_example(blocks=12, width=384)
    assert len(facts.ops) == 12 * 12 * 6
    text = page(facts)
    assert len(text.encode()) < 1_500_000
    assert text.count("384 channels") >= 12 * 12


def test_small_modules() -> None:
    text = """func.func @main(%a: tensor<2xi8>) -> tensor<2xi8> {
      func.return %a : tensor<2xi8>
    }"""
    root = Tree(page(module_facts(ir_text.parse(text), "a.mlir"))).root
    assert [e.words for e in root.all("p", "big")] == ["None", "0", "Yes"]


# --- the flag ---

PROGRAM = """func.func @main(%q: tensor<1x2xi8>, %w: tensor<3x2xi8>) -> tensor<1x3xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<1x2xi8> -> tensor<1x2xf32>
  %u = qvit.dequantize %w <0.25> : tensor<3x2xi8> -> tensor<3x2xf32>
  %y = qvit.linear %x, %u {qvit.src = ["layer"]} : (tensor<1x2xf32>, tensor<3x2xf32>) -> tensor<1x3xf32>
  func.return %y : tensor<1x3xf32>
}
"""


def test_the_page_shows_what_all_passes_left(opt: Tool, folder: Path) -> None:
    (folder / "a.mlir").write_text(PROGRAM)
    done = opt("a.mlir", "--report", "a.html", "--delay-dequant", "--cse", "-o", "b.mlir")
    assert done.status == 0
    assert done.err.startswith("delay-dequant ")  # the table, as for a report in JSON
    assert done.out == ""
    assert contents(folder).keys() == {"a.mlir", "a.html", "b.mlir"}
    root = Tree((folder / "a.html").read_text()).root
    assert root.all("header")[0].all("code")[0].text == "delay-dequant, cse"
    assert [e.words for e in root.all("p", "big")] == ["100.0 %", "2", "No", "1"]


def test_a_page_alone_writes_no_text(opt: Tool, folder: Path) -> None:
    (folder / "vit.onnx").write_bytes(quantized(Variant(), "QUInt8").SerializeToString())
    done = opt("vit.onnx", "--dim", "batch=1", "--delay-dequant", "--report", "page.html")
    assert (done.status, done.out) == (0, "")
    assert contents(folder).keys() == {"vit.onnx", "page.html"}


def test_a_page_needs_no_pass(opt: Tool, folder: Path) -> None:
    (folder / "a.mlir").write_text(PROGRAM)
    assert opt("a.mlir", "--report", "a.html").succeeded() == ""
    root = Tree((folder / "a.html").read_text()).root
    assert [e.words for e in root.all("p", "big")] == ["0.0 %", "3", "No"]
    assert [title.text for title in root.all("h2")][-2:] == ["The model by block", "Operations"]


def test_page_and_report(opt: Tool, folder: Path) -> None:
    (folder / "a.mlir").write_text(PROGRAM)
    assert opt("a.mlir", "--delay-dequant=report=r.json", "--report", "a.html").status == 0
    assert contents(folder).keys() == {"a.mlir", "a.html", "r.json"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--split-input-file", "--report", "a.html"], "a page is about one module"),
        (["--delay-dequant=report=a.html"], "for a page, use qvit-opt --report a.html"),
        (["--delay-dequant", "--report", "nowhere/a.html"], "nowhere/a.html"),
        (["--delay-dequant", "--verify-integer-only", "--report", "a.html"], "keep a float"),
    ],
)
def test_failures_write_nothing(opt: Tool, folder: Path, flags: list[str], said: str) -> None:
    (folder / "a.mlir").write_text(PROGRAM)
    done = opt("a.mlir", *flags, "-o", "b.mlir")
    assert done.status in (1, 2)
    assert said in done.err
    assert contents(folder).keys() == {"a.mlir"}
