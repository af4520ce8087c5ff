"""Texts of YAML files that people read, too."""

from collections.abc import Sequence
from typing import final

import yaml
from typing_extensions import override


@final
class _Dumper(yaml.SafeDumper):
    """Writes lists indented, and a value that stands at two places twice."""

    @override
    def ignore_aliases(self, data: object) -> bool:
        return True

    @override
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless
        return super().increase_indent(flow, indentless=False)


def _text(_dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """Write a text of several lines as such."""
    style = "|" if "\n" in value else None
    return yaml.ScalarNode("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(documents: Sequence[object], head: str) -> str:
    """Write documents as one file.

    Args:
        documents: Plain mappings, lists, texts and numbers; keys keep their order.
        head: Comment at the top, without marks.
    """
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    texts = [
        yaml.dump(each, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
        for each in documents
    ]
    return comment + "---\n".join(texts)
