"""What the guides show of files is what the project reads."""

import re
from pathlib import Path
from typing import Final

import pytest

from orchestrator.config.yamlfile import parse_yaml

ROOT: Final = Path(__file__).parents[3]
GUIDES: Final = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
BLOCK: Final = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHOWN: Final = [
    pytest.param(match[1], id=f"{path.relative_to(ROOT)}-{number}")
    for path in GUIDES
    for number, match in enumerate(BLOCK.finditer(path.read_text()), 1)
]


@pytest.mark.parametrize("text", SHOWN)
def test_the_yaml_of_guides_can_be_read(text: str) -> None:
    """Nobody copies a line out of a guide that is refused as no YAML."""
    # Some blocks show parts of several files, one after the other.
    for part in re.split(r"\n(?=# [a-z./]+\.yaml\n)", text):
        _ = parse_yaml(part.encode(), "guide")
