"""Every Python block of the README and of the docs runs, the blocks of a page in one namespace; every link resolves."""

import re
from pathlib import Path

import equinox as eqx
import pytest


ROOT = Path(__file__).parents[1]
LONG = ("generation.md", "performance.md")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = "migration.md"  # `test_migration.py` runs it, with the calls in its tables


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in LONG else [])
        for page in PAGES
        if "```python" in page.read_text() and page.name != ELSEWHERE
    ],
)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whatever a block jits is traced once: tokens of a loop that begin weakly typed would be traced twice."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    code = "\n".join(blocks).replace("eqx.filter_jit(", "jit_once(").replace("@eqx.filter_jit", "@jit_once")
    jit_once = lambda function: eqx.filter_jit(eqx.debug.assert_max_traces(function, max_traces=1))
    exec(compile(code, f"<{page.name}>", "exec"), {"__name__": "docs", "jit_once": jit_once})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_public_name_is_in_the_api() -> None:
    page = (ROOT / "docs/api.md").read_text()
    stub = (ROOT / "src/bart_eqx/__init__.pyi").read_text()
    modules, names = stub.split("\n", 1)  # what is in the modules of the first line has its own entries
    names = set(re.findall(r"\w+ as (\w+)", names))
    assert modules.startswith("from . import ")
    documented = set(re.findall(r"^::: bart_eqx\.(\w+)$", page, flags=re.MULTILINE))
    assert len(names) >= 30 and not names - documented


def test_every_bad_input_is_numbered() -> None:
    """All 72, each with its test."""
    rows = re.findall(r"^\| (\d+) \| .* \| `test_\w+\.py::\w+` \|$", (ROOT / "docs/checkpoints.md").read_text(), re.M)
    assert rows == [str(number) for number in range(1, 73)]


@pytest.mark.parametrize("page", ["parity.md", "checkpoints.md", "migration.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`((?:oracle/)?test_\w+\.py)::(\w+)`", (ROOT / "docs" / page).read_text())
    assert named
    for file, name in named:
        assert re.search(rf"(def|class) {name}\b", (ROOT / "tests" / file).read_text()), name
