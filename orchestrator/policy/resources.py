"""Which resources and prompts a role has: exactly those that its file names."""

from contextlib import suppress
from typing import final

from orchestrator.model.rules import Readable
from orchestrator.protocol.resource_uri import UriRule


@final
class Resources:
    """The resources of a role."""

    def __init__(self, allowed: Readable) -> None:
        """Take what the role file names; what its check would have refused names nothing."""
        self._all = allowed == "all"
        rules: list[UriRule] = []
        for text in () if allowed == "all" else allowed:
            with suppress(ValueError):
                rules.append(UriRule(text))
        self._exact = frozenset(rule.text for rule in rules if rule.is_exact)
        self._patterns = tuple(rule for rule in rules if not rule.is_exact)

    def allows(self, uri: str) -> bool:
        """Tell whether a resource may be read, listed, subscribed to and heard of."""
        return self._all or uri in self._exact or any(rule.allows(uri) for rule in self._patterns)

    def shows(self, template: str) -> bool:
        """Tell whether a server's URI template leads to allowed resources only."""
        return self._all or any(rule.covers(template) for rule in self._patterns)


@final
class Prompts:
    """The prompts of a role."""

    def __init__(self, allowed: Readable) -> None:
        """Take what the role file names."""
        self._all = allowed == "all"
        self._names = frozenset(() if allowed == "all" else allowed)

    def allows(self, name: str) -> bool:
        """Tell whether a prompt may be listed and had."""
        return self._all or name in self._names
