"""The files of `examples/`: short, listed with their length, and made of abstract parts only."""

import ast
import importlib
import inspect
import io
import re
import tokenize
from pathlib import Path

import equinox as eqx
import pytest


FOLDER = Path(__file__).parents[1] / "examples"
FILES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
LIMITS = {"rotary": 39, "alibi": 39, "sliding_window": 39, "long_documents": 39, "grouped_keys": 39, "lora": 30}


def code_lines(source: str) -> int:
    """Lines with code: without blank ones, comments, docstrings and imports."""
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - left_out)


def test_they_are_short() -> None:
    """And as long as their README says."""
    counted = {name: code_lines((FOLDER / f"{name}.py").read_text()) for name in FILES}
    listed = re.findall(r"^\| `(\w+)\.py` \| (\d+) \|", (FOLDER / "README.md").read_text(), flags=re.MULTILINE)
    assert {name: int(lines) for name, lines in listed} == counted
    assert all(lines <= LIMITS.get(name, 79) for name, lines in counted.items())


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overridden_or_patched(name: str) -> None:
    """Every base is abstract, and no attribute of another object is assigned."""
    module = importlib.import_module(f"examples.{name}")
    for cls in vars(module).values():
        if inspect.isclass(cls) and cls.__module__ == module.__name__:
            assert all(base is eqx.Module or inspect.isabstract(base) for base in cls.__bases__), cls
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    targets = [t for node in ast.walk(tree) if isinstance(node, ast.Assign) for t in node.targets]
    attributes = [t for target in targets for t in ast.walk(target) if isinstance(t, ast.Attribute)]
    assert all(isinstance(t.value, ast.Name) and t.value.id == "self" for t in attributes)
    assert not re.search(r"\b(setattr|__dict__|patch\()", (FOLDER / f"{name}.py").read_text())
