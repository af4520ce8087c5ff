"""The playbook's commands work, in their order, with the stock roles."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from orchestrator.config.settings import load_settings

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = """#!PYTHON
import sys
open("told", "a").write(sys.stdin.read())
"""
SETTINGS: Final = """
listen: 127.0.0.1:0
notify:
  page: {command: ["{project}/bin/page"], topics: [incident]}
"""
ID: Final = re.compile(r"inc-[0-9]{8}-[0-9a-f]{6}")


def blocks(page: Path, kind: str) -> list[str]:
    """Find a page's blocks of a kind."""
    pattern = rf"^```{kind}\n(.*?)^```$"
    return [str(text) for text in re.findall(pattern, page.read_text(), re.DOTALL | re.MULTILINE)]  # pyright: ignore[reportAny] - texts, as there is one group


def run_all(project: Project, page: Path) -> list[str]:
    """Run every command of a page, each of which has to do what it should."""
    incident = ""
    outputs: list[str] = []
    for line in "".join(blocks(page, "sh")).splitlines():
        words = shlex.split(ID.sub(incident, line) if incident else line, comments=True)
        assert words[0] == "agents", line
        outputs.append(project.agents(*words[1:]).stdout)
        if words[1:3] == ["incident", "start"]:
            found = ID.search(outputs[-1])
            assert found is not None
            incident = found[0]
    return outputs


def test_the_playbook_is_played(project: Project) -> None:
    """Every command of it ends well, and in the end nothing is held back."""
    script = project.write("bin/page", PAGE.replace("PYTHON", sys.executable))
    script.chmod(0o700)
    _ = project.write("agents.yaml", SETTINGS)
    _ = project.agents("up", "-d")
    outputs = run_all(project, DOCS / "incident.md")
    assert "Nothing is held back" in project.agents("guards").stdout
    told = (project.root / "told").read_text()
    assert "transfers that nobody asked for" in told
    assert "a drill" in told
    assert any("page  told" in text for text in outputs)
    _ = run_all(project, DOCS / "how-to" / "shadow.md")
    assert "Nothing is held back" in project.agents("guards").stdout


def test_the_playbook_shows_settings_that_are_right(tmp_path: Path) -> None:
    """What it says under `notify:` can be written so, and what it says of role files is YAML."""
    [text] = blocks(DOCS / "incident.md", "yaml")
    _ = (tmp_path / "agents.yaml").write_text(text)
    assert set(load_settings(tmp_path).notify) == {"ops", "mail", "page"}
    [rule] = blocks(DOCS / "how-to" / "shadow.md", "yaml")
    assert "shadow" in yaml.safe_load(rule)
