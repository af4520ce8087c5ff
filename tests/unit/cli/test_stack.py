"""What is told of commands of Docker's that fail."""

from __future__ import annotations

import pytest

from orchestrator.cli.stack import run
from orchestrator.errors import SettingsError


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("Bind for 127.0.0.1:8700 failed: port is already allocated", "Another program has"),
        ("listen tcp4 127.0.0.1:8700: bind: address already in use", "Another program has"),
        (
            "permission denied while trying to connect to the Docker daemon socket at unix:///x",
            "allowed to use the engine",
        ),
        (
            "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
            "Start the engine",
        ),
        ("pull access denied for bandmaster, repository does not exist", "scripts/images"),
    ],
)
def test_what_is_wrong_with_the_engine_has_a_cure(said: str, cure: str) -> None:
    """The engine's own words are kept, and what helps stands beside them."""
    with pytest.raises(SettingsError) as caught:
        _ = run(["sh", "-c", f"echo '{said}' >&2; exit 1"])
    assert said in str(caught.value)
    assert cure in str(caught.value.hint)


def test_what_nobody_foresaw_is_told_as_it_is() -> None:
    """Other words come without a cure, and silence with the exit status."""
    with pytest.raises(SettingsError, match="the moon is full") as caught:
        _ = run(["sh", "-c", "echo the moon is full >&2; exit 1"])
    assert caught.value.hint is None
    with pytest.raises(SettingsError, match="exit status 7"):
        _ = run(["sh", "-c", "exit 7"])
