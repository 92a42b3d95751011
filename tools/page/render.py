"""The facts about a module -> one HTML page: no script, nothing fetched, readable on a phone and in the dark."""

import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TypeVar

from qvit.tools.compile_report import CompileReport, TensorLine, WeightLine, decibel, size
from qvit.tools.page.facts import BlockFacts, CodeFacts, Form, Group, ModuleFacts, OpFacts
from qvit.tools.registry import VERSION
from qvit.transforms.delay_dequant import Report

LineT = TypeVar("LineT")

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the browser may load: nothing but the style inside the page, whatever a name in the model says."""


def page(facts: ModuleFacts, compiled: CompileReport | None = None) -> str:
    """The whole document. Equal facts give equal text. compiled: of qvit-compile, which has more to tell."""
    css = Path(__file__).with_name("page.css").read_text()
    name = escape(facts.name)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{name} – qvit</title>
<style>
{css}</style>
</head>
<body>
{_header(facts, compiled)}
<main>
{_overview(facts.blocks)}
{_compiled(compiled) if compiled is not None else ""}
{_remarks("Blocked", "Dequantization that could not move, by reason.", facts.blocked, "Nothing is blocked.", facts)}
{_remarks("Notes", "What stays in float without blocking a product.", facts.notes, "There are none.", facts)}
{_remarks("Not recognised", "Patterns of the source that stay plain operations.", facts.declined, "", facts)}
<h2>Operations</h2>
{"".join(_block(i, block) for i, block in enumerate(facts.blocks))}
</main>
<footer>Written by qvit {VERSION}. A range is what the codes of the type stand for: scale × (code − zero point).</footer>
</body>
</html>
"""


# --- numbers and small parts ---


def _number(value: float) -> str:
    """Four significant digits, with a real minus sign."""
    return f"{value:.4g}".replace("-", "−")


def _span(pair: tuple[float, float], between: str = " to ") -> str:
    low, high = map(_number, pair)
    return low if low == high else f"{low}{between}{high}"


def _percent(share: float) -> str:
    """One digit; 100.0 % only where nothing is missing."""
    return f"{min(share, 0.999) if share < 1 else share:.1%}".replace("%", " %")


def _large(number: int) -> str:
    """1234567 -> '1.23 M'."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return str(number)


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number:,} {what}{'' if number == 1 else plural}"


def _bar(parts: Sequence[tuple[str, int]], label: str, extra: str = "") -> str:
    """Coloured stretches, as wide as their numbers."""
    total = max(sum(n for _, n in parts), 1)
    rects, start = "", 0
    for css, n in parts:
        x, width = (round(1000 * k / total, 2) for k in (start, n))
        rects += f'<rect class="{css}" x="{x:g}" width="{width:g}" height="1"/>' if n else ""
        start += n
    return (
        f'<svg class="bar {extra}" viewBox="0 0 1000 1" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(label)}">{rects}</svg>'
    )


def _forms(block: BlockFacts) -> str:
    counts = ((block.count(form), form) for form in Form)
    return ", ".join(f"{n} {form}" for n, form in counts if n) or "constants only"


# --- the top of the page ---


def _header(facts: ModuleFacts, compiled: CompileReport | None) -> str:
    passes = ", ".join(facts.passes)
    after = f"after <code>{escape(passes)}</code>" if passes else "as it was read"
    return f"""<header>
<h1>{escape(facts.name)}</h1>
<p class="soft">The module {after}.</p>
<div class="tiles">
{_macs_tile(facts)}
{_ops_tile(facts)}
{_float_tile(facts)}
{_compiled_tiles(compiled) if compiled is not None else ""}
{_report_tile(facts.report) if facts.report is not None else ""}
</div>
</header>"""


def _tile(title: str, big: str, body: str, extra: str = "") -> str:
    return f'<section class="tile {extra}"><h2>{title}</h2><p class="big">{big}</p>{body}</section>'


def _terms(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f'<dt>{term}</dt><dd class="num">{text}</dd>' for term, text in pairs)
    return f"<dl>{rows}</dl>"


def _macs_tile(facts: ModuleFacts) -> str:
    macs = facts.macs
    if not macs.total:
        return _tile("Multiply-accumulates", "None", "<p>The module has no products.</p>")
    kinds = [(kind, f"{_percent(m.share)} of {_large(m.total)}") for kind, m in facts.macs_by_kind.items() if m.total]
    share = _percent(macs.share)
    parts = [("integer", macs.integer), ("float", macs.total - macs.integer)]
    bar = _bar(parts, f"{share} of all multiply-accumulates are on integers", "share")
    return _tile("Multiply-accumulates on integers", share, bar + _terms([*kinds, ("all", _large(macs.total))]))


def _ops_tile(facts: ModuleFacts) -> str:
    counts = [(form, sum(block.count(form) for block in facts.blocks)) for form in Form]
    flow = sum(n for _, n in counts)
    bar = _bar([(form.value, n) for form, n in counts], "operations by what they work on", "share")
    terms = [*((_key(form) + form, f"{n:,}") for form, n in counts), ("on weights alone", f"{len(facts.ops) - flow:,}")]
    return _tile("Operations", f"{flow:,}", bar + _terms(terms))


def _float_tile(facts: ModuleFacts) -> str:
    left = list(facts.floats_left.items())
    if not left:
        return _tile("Free of floats", "Yes", "<p>No type, attribute or constant is a float.</p>")
    total, first, rest = sum(n for _, n in left), left[:_SHOWN], sum(n for _, n in left[_SHOWN:])
    terms = [(escape(kind), f"{n:,}") for kind, n in first] + ([("others", f"{rest:,}")] if rest else [])
    return _tile(
        "Free of floats",
        "No",
        f"<p>{_count(total, 'operation')} with a float in a type, attribute or constant:</p>" + _terms(terms),
    )


_SHOWN = 4


def _report_tile(report: Report) -> str:
    total = max(report.macs_total, 1)
    pairs = [
        ("integer MACs", *(_percent(n / total) for n in (report.macs_integer.before, report.macs_integer.after))),
        ("float elements", *(_large(n) for n in (report.float_elements.before, report.float_elements.after))),
        ("quantize, dequantize", *(f"{n:,}" for n in (report.qdq_ops.before, report.qdq_ops.after))),
    ]
    rules = _terms((escape(name), f"{r['count']} × {r['exactness']}") for name, r in report.rules.items())
    terms = _terms((name, f"{before} → {after}") for name, before, after in pairs)
    return _tile(
        "Products moved by delay-dequant", str(len(report.moved)), f'<div class="pair">{terms}{rules}</div>', "wide"
    )


def _key(form: Form, constant: bool = False) -> str:
    also = " constant" if constant else ""
    return f'<span class="key {form}{also}"></span>'


def _overview(blocks: Sequence[BlockFacts]) -> str:
    rows = ""
    for i, block in enumerate(blocks):
        counts = [(form.value, block.count(form)) for form in Form]
        rows += (
            f'<li><a href="#block-{i}">{escape(block.title)}</a>{_bar(counts, f"{block.title}: {_forms(block)}")}'
            f'<span class="counts num">{_float_count(block)}</span></li>\n'
        )
    legend = "".join(f"<li>{_key(form)}{text}</li>" for form, text in _LEGEND.items())
    return f'<h2>The model by block</h2>\n<ul class="legend">{legend}</ul>\n<ol class="overview">\n{rows}</ol>'


_LEGEND = {
    Form.INTEGER: "integer in and out",
    Form.FLOAT: "float",
    Form.QUANTIZE: "quantize: real numbers to codes",
    Form.DEQUANTIZE: "dequantize: codes to real numbers",
}


def _float_count(block: BlockFacts) -> str:
    return f"{block.count(Form.FLOAT)} of {len(block.flow)} in float"


def _remarks(title: str, what: str, groups: Sequence[Group], none: str, facts: ModuleFacts) -> str:
    """A list of reasons; without any, `none`, and nothing at all where that is empty or delay-dequant did not run."""
    if not groups:
        return f"<h2>{title}</h2>\n<p>{none}</p>" if none and facts.report is not None else ""
    total = sum(len(group.remarks) for group in groups)
    return f'<h2>{title}: {total}</h2>\n<p class="soft">{what}</p>\n' + "".join(map(_group, groups))


def _group(group: Group) -> str:
    rows = "".join(
        f'<li><span class="src">{escape(r.src)}</span>'
        + (f' <span class="why">{escape(r.reason)}</span>' if r.reason != group.reason else "")
        + "</li>"
        for r in group.remarks
    )
    return (
        f'<details><summary><span class="kind">{len(group.remarks)} × {escape(group.rule)}</span>: '
        f'{escape(group.reason)}</summary><div class="inside"><ul class="places">{rows}</ul></div></details>\n'
    )


# --- what qvit-compile tells ---


def _compiled_tiles(report: CompileReport) -> str:
    samples = (
        f"{escape(report.samples.what)}, in {_count(report.samples.batches, 'batch', 'es')}"
        if report.samples
        else "none"
    )
    settings = [(escape(name), escape(str(value))) for name, value in report.settings.items()]
    known = [(name, value) for name, value in report.outputs.items() if value is not None]
    worst = min(known, key=lambda item: item[1], default=None)
    outputs = _terms((escape(name), decibel(value)) for name, value in report.outputs.items())
    sizes, widest = report.sizes, report.widest
    share = _bar(
        [("integer", sizes.integer), ("nothing", sizes.float - sizes.integer)], "weights, beside float", "share"
    )
    width = [("widest accumulator", f"{widest.bits} bits of {escape(widest.type)}")] if widest is not None else []
    weights = [("in 32-bit floats", size(sizes.float)), ("factors of requantize", size(sizes.requantize)), *width]
    return "\n".join(
        [
            _tile("Outputs against float", decibel(worst[1]), f"<p>SQNR on one batch of the samples.</p>{outputs}")
            if worst is not None
            else "",
            _tile("Weights in integers", size(sizes.integer), share + _terms(weights)),
            _tile(
                f"Scheme {escape(report.scheme)}",
                "",
                f"<p>{escape(report.summary)}</p>{_terms(settings)}<p>Samples: {samples}.</p>",
            ),
        ]
    )


def _compiled(report: CompileReport) -> str:
    warnings = "".join(f"<p>{escape(text)}.</p>" for text in report.warnings)
    return f"""{warnings and "<h2>Warnings</h2>" + warnings}
<h2>Tensors against float</h2>
<p class="soft">The integer program's codes against the float model, on one batch of the samples, worst first. Used: how much
of the codes' range the samples filled; saturated: numbers that no code reaches.</p>
{_folded(report.worst + [line for line in report.tensors if line.sqnr is None], _TENSORS, _tensor_row, "tensor")}
<h2>Weights</h2>
{_folded(sorted(report.weights, key=lambda line: line.sqnr), _WEIGHTS, _weight_row, "layer")}
<h2>Approximations</h2>
{"".join(_approximation(name, report) for name in dict.fromkeys(report.approximations.values()))}"""


_OPEN = 8
"""Rows of a table that are seen at once."""
_TENSORS = ("Tensor", "Codes", "SQNR", "Scale, zero point", "Seen, and how much of the range")
_WEIGHTS = ("Layer", "Codes", "SQNR", "Scales")
_FULL = 60.0
"""The SQNR, in dB, that fills a bar."""


def _folded(lines: Sequence[LineT], titles: Sequence[str], row: Callable[[LineT], Sequence[str]], what: str) -> str:
    """A table, all but its first rows folded away."""
    if not lines:
        return "<p>There are none: the model had its scales.</p>"
    rest = lines[_OPEN:]
    more = f"<details><summary>{_count(len(rest), 'more ' + what)}</summary>{_lines(rest, titles, row)}</details>"
    return _lines(lines[:_OPEN], titles, row) + (more if rest else "")


def _lines(lines: Sequence[LineT], titles: Sequence[str], row: Callable[[LineT], Sequence[str]]) -> str:
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "".join(f"<tr><td>{'</td><td>'.join(row(line))}</td></tr>\n" for line in lines)
    return f'<table class="lines"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>'


def _share(share: float, label: str) -> str:
    filled = round(1000 * min(max(share, 0.0), 1.0))
    return _bar([("integer", filled), ("nothing", 1000 - filled)], label, "share")


def _sqnr(value: float | None) -> str:
    if value is None:
        return '<span class="soft">not compared</span>'
    return f'<span class="num">{_minus(decibel(value))}</span>{_share(value / _FULL, f"SQNR {decibel(value)}")}'


def _minus(text: str) -> str:
    return re.sub(r"-(?=[0-9])", "−", text)


def _tensor_row(line: TensorLine) -> Sequence[str]:
    scales, zeros = ([v] if not isinstance(v, list) else v for v in (line.scale, line.zero_point))
    zero = _span((min(zeros), max(zeros)))
    moved = f'<span class="soft">{_number(line.octaves)} octaves moved</span>' if line.octaves else ""
    used = ""
    if line.low is not None and line.high is not None and line.used is not None:
        used = f'<span class="num">{_span((line.low, line.high))}</span>{_share(line.used, "used of the range")}'
        used += f'<span class="soft">{_percent(line.used)} used</span>'
    if line.saturated:
        used += f'<span class="soft">{_number(100 * line.saturated)} % saturated</span>'
    return (
        f'<span class="src">{escape(line.src)}</span><span class="soft">{escape(line.role)}</span>',
        f"{'i' if line.signed else 'ui'}{line.bits}",
        _sqnr(line.sqnr),
        f"<span>{_span((min(scales), max(scales)))}</span>"
        + (f"<span>zero point {zero}</span>" if zero != "0" else "")
        + moved,
        used,
    )


def _weight_row(line: WeightLine) -> Sequence[str]:
    moved = "" if line.octaves is None else f'<span class="soft">{_span(line.octaves)} octaves moved</span>'
    scales = f"<span>{_count(line.channels, 'scale')}</span>{moved}"
    return f'<span class="src">{escape(line.src)}</span>', f"i{line.bits}", _sqnr(line.sqnr), scales


def _approximation(name: str, report: CompileReport) -> str:
    """Where it was taken, and what else could have been, where there was a choice."""
    nodes = [src for src, taken in report.approximations.items() if taken == name]
    others = {
        choice.src: ", ".join(f"{other} {decibel(score)}" for other, score in choice.scores.items())
        for choice in report.candidates
    }
    places = "".join(
        f'<li><span class="src">{escape(src)}</span>'
        + (f' <span class="why">{_minus(escape(others[src]))}</span>' if src in others else "")
        + "</li>"
        for src in nodes
    )
    return (
        f'<details><summary><span class="kind">{len(nodes)} × {escape(name)}</span></summary>'
        f'<div class="inside"><ul class="places">{places}</ul></div></details>\n'
    )


# --- the operations of a block ---


def _block(index: int, block: BlockFacts) -> str:
    path = f'<span class="src soft">{escape(block.path)}</span> ' if block.path else ""
    constant = [op for op in block.ops if op.constant]
    also = (
        f"<details><summary>{_count(len(constant), 'operation')} on weights alone</summary>{_table(constant)}</details>"
    )
    return f"""<details id="block-{index}">
<summary><h3>{escape(block.title)}</h3>{path}<span class="counts">{_forms(block)}</span>{_flow(block)}</summary>
{_table(block.flow) if block.flow else ""}
{also if constant else ""}</details>
"""


def _table(ops: Sequence[OpFacts]) -> str:
    return f"""<table class="ops">
<thead><tr><th>Operation</th><th>Source node</th><th>Result</th><th>Scale, zero point</th><th>Range</th></tr></thead>
<tbody>
{"".join(map(_row, ops))}</tbody></table>"""


_SLOT, _LANE, _GAP = 10, 14, 8  # the float lane above, the integer lane below, the gap that (de)quantize bridges


def _flow(block: BlockFacts) -> str:
    """The operations from left to right: floats in the upper lane, integers in the lower one, and the steps between."""
    flow = block.flow
    if not flow:
        return ""
    height, low = 2 * _LANE + _GAP, _LANE + _GAP
    shapes = ""
    for i, op in enumerate(flow):
        x, end = i * _SLOT + 1, i * _SLOT + _SLOT - 1
        match op.form:
            case Form.FLOAT:
                shape = f'rect class="float" x="{x}" y="0" width="{end - x}" height="{_LANE}"'
            case Form.INTEGER:
                shape = f'rect class="integer" x="{x}" y="{low}" width="{end - x}" height="{_LANE}"'
            case Form.QUANTIZE:
                shape = f'path class="quantize" d="M{x} 0h3L{end} {height}h-3z"'
            case Form.DEQUANTIZE:
                shape = f'path class="dequantize" d="M{x} {height}h3L{end} 0h-3z"'
        shapes += f"<{shape}><title>{escape(_tip(op))}</title></{shape[:4]}>"
    width = len(flow) * _SLOT
    lanes = "".join(f'<rect class="lane" x="0" y="{y}" width="{width}" height="{_LANE}"/>' for y in (0, low))
    return (
        f'<span class="flow"><span>float</span><span>integer</span><svg viewBox="0 0 {width} {height}"'
        f' preserveAspectRatio="none" style="max-width:{max(width * 2, 40)}px" role="img"'
        f' aria-label="{escape(block.title)} as a strip: {_forms(block)}">{lanes}{shapes}</svg></span>'
    )


def _tip(op: OpFacts) -> str:
    return f"{op.kind} {op.src[-1] if op.src else ''}".rstrip()


def _row(op: OpFacts) -> str:
    constant = " is-constant" if op.constant else ""
    name = op.src[-1] if op.src else "unnamed"
    also = _count(len(op.src) - 1, "more node") if len(op.src) > 1 else ""
    others, operands = (escape(", ".join(names)) for names in (op.src[:-1], op.operands))
    cells = [
        f'<span class="kind">{_key(op.form, op.constant)}{escape(op.kind)}</span>'
        + (f'<span class="soft">{escape(op.how)}</span>' if op.how else "")
        + (f'<span class="soft num">{_large(op.macs)} MACs</span>' if op.macs else ""),
        f'<span class="src">{escape(name)}</span>'
        + (f'<span class="soft" title="{others}">and {also}</span>' if also else "")
        + "".join(f'<span class="why">{escape(reason)}</span>' for reason in op.why),
        f"<span>{escape(op.result)}</span>" + (f'<span class="soft">from {operands}</span>' if operands else ""),
        *(_codes(op.codes) if op.codes is not None else ("", "")),
    ]
    return f'<tr class="is-{op.form}{constant}"><td>' + "</td><td>".join(cells) + "</td></tr>\n"


def _codes(codes: CodeFacts) -> tuple[str, str]:
    zero = _span(codes.zero_point)
    channels = f"<span>{_count(codes.channels, 'channel')}</span>" if codes.channels is not None else ""
    return (
        f"<span>{_span(codes.scale)}</span>" + (f"<span>zero point {zero}</span>" if zero != "0" else "") + channels,
        f"<span>{_span(codes.real)}</span>",
    )
