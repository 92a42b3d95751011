"""The documents say what the code says."""

import importlib.util
import re
from pathlib import Path

import pytest

from qvit.dialects.approximations import FUNCTION, LAYER_NORM, SOFTMAX
from qvit.transforms import integerize
from qvit.transforms.delay_dequant import RULES
from qvit.transforms.ptq import prepare

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["ir", "approximations", "isa"])
def test_generated_documents(name: str) -> None:
    spec = importlib.util.spec_from_file_location(f"generate_{name}", ROOT / f"docs/generate_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / f"docs/{name}.md").read_text() == module.render(), f"run python docs/generate_{name}.py"


def test_every_approximation_has_a_row() -> None:
    text = (ROOT / "docs/approximations.md").read_text()
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.M)) == {*SOFTMAX, *FUNCTION, *LAYER_NORM}


TABLES = {"--delay-dequant": RULES, "--integerize": integerize.RULES, "Before quantization": prepare.RULES}


@pytest.mark.parametrize("section", TABLES)
def test_the_rule_table_has_every_rule_with_its_exactness(section: str) -> None:
    text = (ROOT / "transforms/README.md").read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    stated: dict[str, str] = {}
    for row in rows:
        name, _, exactness = (cell.strip() for cell in row.strip("|").split("|"))
        prefix, _, suffix = name.rpartition(" ") if "," in name else ("", "", name)
        tail = suffix[suffix.index("-") :] if prefix else ""
        names = [part.strip("-, ") + tail for part in prefix.split()] + [suffix]
        stated |= dict.fromkeys(names, exactness)
    for rule in TABLES[section]:
        if "stays" not in (rule.__doc__ or ""):
            assert stated.get(rule.name) == rule.exactness.value, rule.name


# folders with a dot are tools' own: pytest leaves a README in its cache
PATTERNS = ("*.md", "[!.]*/*.md", "examples/*/*.md")
DOCUMENTS = sorted(file for pattern in PATTERNS for file in ROOT.glob(pattern))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document}: {target}"
