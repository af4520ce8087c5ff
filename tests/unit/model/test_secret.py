"""Secret references."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SecretRefError
from orchestrator.model.secret import SecretRef


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("env:API_KEY", SecretRef("env", "", "API_KEY")),
        ("file:/run/key", SecretRef("file", "/run/key", "")),
        ("file:///run/key", SecretRef("file", "/run/key", "")),
        ("file:{state}/wallet/x", SecretRef("file", "{state}/wallet/x", "")),
        ("dotenv:/a/.env#B", SecretRef("dotenv", "/a/.env", "B")),
        ("dotenv:{project}/.env.prod#B", SecretRef("dotenv", "{project}/.env.prod", "B")),
    ],
)
def test_references_are_read_and_written(text: str, reference: SecretRef) -> None:
    """Each scheme is read, and written so that it reads back."""
    assert SecretRef.parse(text) == reference
    assert SecretRef.parse(str(reference)) == reference


@given(st.text(max_size=60))
def test_any_other_text_is_refused_without_its_words(text: str) -> None:
    """A text that is no reference may be the secret itself, and is not repeated."""
    with pytest.raises(SecretRefError) as caught:
        SecretRef.parse(f"canary{text}")
    assert "canary" not in str(caught.value) + str(caught.value.hint)
