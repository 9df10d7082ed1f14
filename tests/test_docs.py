"""Every Python block of the README and of the docs runs, those of one page one after another; links lead somewhere."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text()], ids=lambda page: page.name
)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    exec(compile("\n".join(blocks), str(page), "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_test_that_the_parity_page_names_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", (ROOT / "docs/parity.md").read_text())
    assert len(named) >= 12
    for file, name in named:
        assert re.search(rf"(def|class) {name}\b", (ROOT / "tests" / file).read_text()), name
