"""Every public code of an error has its page in docs/errors, and every page its code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import errors
from orchestrator.gateway.replies import TABLE

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "errors"
INDEX = PAGES / "README.md"


def tree(base: type[errors.AgentsError]) -> Iterator[type[errors.AgentsError]]:
    """Walk the tree of errors; what commands and the control plane add has codes of these."""
    if base.__module__ == errors.__name__:
        yield base
    for child in base.__subclasses__():
        yield from tree(child)


CLASSES = {kind.code: kind for kind in tree(errors.AgentsError)}


def literal(node: ast.AST | None) -> str | None:
    """Tell the text that an expression is, None for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def written() -> set[str]:
    """Find every code that the source gives without a class of `errors`."""
    found: set[str] = set()
    for path in (ROOT / "orchestrator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("refuse_http"):
                codes = [literal(word.value) for word in node.keywords if word.arg == "code"]
                assert codes, f"{path}:{node.lineno}: a refusal without a code"
                assert None not in codes, f"{path}:{node.lineno}: a code that is no literal"
                found |= {code for code in codes if code is not None}
            elif isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                found |= {code for line in node.body if (code := code_of(line)) is not None}
    return found


def code_of(line: ast.stmt) -> str | None:
    """Tell the code that a line of a class gives it, None for any other line."""
    if not isinstance(line, ast.Assign) or [ast.unparse(one) for one in line.targets] != ["code"]:
        return None
    return literal(line.value)


def page(code: str) -> str:
    """Read a code's page."""
    return (PAGES / f"{code}.md").read_text()


def facts(code: str) -> tuple[str, str, str]:
    """Tell who sees a code, its category and its exit status, as its page says."""
    rows = page(code).splitlines()
    seen, category, status = rows[rows.index("|---|---|---|") + 1].strip("| ").split(" | ")
    return seen, category.strip("`"), status


CODES = sorted({*CLASSES, *written()})


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    """Whoever adds an error writes down its cause and its cure; whoever removes one, removes it."""
    assert {path.stem for path in PAGES.glob("*.md")} - {INDEX.stem} == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_page_is_whole(code: str) -> None:
    """It is named after its code, says what the code means, who sees it, its cause and its fix."""
    text = page(code)
    title, meaning = text.splitlines()[:3:2]
    assert title == f"# `{code}`"
    assert meaning.endswith((".", ",")) or len(meaning) > 60
    assert "\n**Cause.** " in text
    assert "\n**Fix.** " in text
    seen, _, _ = facts(code)
    assert seen in {"agents", "operators", "agents and operators"}
    for link in re.finditer(r"\]\(([^)#]+)\)", text):
        assert (PAGES / link[1]).resolve().exists(), link[1]


@pytest.mark.parametrize("code", CODES)
def test_a_page_is_true(code: str) -> None:
    """Exit status and category are those of the code; what is internal is shown to no agent."""
    seen, category, status = facts(code)
    branch = code.partition(".")[0]
    assert status == str(CLASSES.get(code, CLASSES.get(branch, errors.AgentsError)).exit_code)
    row = TABLE.get(CLASSES.get(code, errors.AgentsError))
    if row is not None and row.is_internal:
        assert (seen, category) == ("operators", "-")
    elif row is not None and "agents" in seen:
        assert category == row.category


def test_the_index_lists_every_page() -> None:
    """Each code once, with the words of its page."""
    rows = [line for line in INDEX.read_text().splitlines() if line.startswith("| [`")]
    listed: list[str] = []
    for row in rows:
        link, meaning, seen = row.strip("| ").split(" | ")
        code = link.removeprefix("[`").partition("`")[0]
        assert link == f"[`{code}`]({code}.md)"
        assert meaning in " ".join(page(code).split())
        assert seen == facts(code)[0]
        listed.append(code)
    assert sorted(listed) == CODES
