"""Sealed values: opened by their key for their purpose, and changed by nobody."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import StateCorruptError
from orchestrator.gateway.seal import KEY_BYTES, Seal, load_key
from orchestrator.model.base import Json

SEAL = Seal(bytes(range(KEY_BYTES)))
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.text(max_size=10), VALUES)
def test_what_was_sealed_is_opened(purpose: str, value: Json) -> None:
    """Any value comes back as it was, and each time it is sealed it looks different."""
    text = SEAL.close(purpose, value)
    assert SEAL.open(purpose, text) == value
    assert SEAL.close(purpose, value) != text
    assert set(text) <= set(ALPHABET)


@given(VALUES, st.data())
@settings(max_examples=500)
def test_any_change_opens_nothing(value: Json, data: st.DataObject) -> None:
    """A text that differs in one place, in its length or in its spelling is none of ours."""
    text = SEAL.close("p", value)
    place = data.draw(st.integers(0, 39))  # shorter than any seal
    character = st.sampled_from(ALPHABET + "+/=é\x00 \n") | st.characters()
    put = data.draw(character)  # whatever the text is, which is random: what is drawn is not
    for changed in (
        text[:place] + put + text[place + 1 :],
        text[:place] + text[place + 1 :],
        text[:place] + put + text[place:],
        text + put,
        text + "=",
        text + "=" * (-len(text) % 4),
        put + text,
    ):
        assert changed == text or SEAL.open("p", changed) is None


def test_the_last_character_counts() -> None:
    """Bits that no byte is made of are no place for a second spelling of one seal."""
    for length in range(6):
        text = SEAL.close("p", "x" * length)
        opened = [SEAL.open("p", text[:-1] + last) is not None for last in ALPHABET]
        assert opened.count(True) == 1


@given(st.text(), st.text(), VALUES.filter(lambda value: value is not None))
def test_a_seal_is_for_one_purpose_and_one_key(one: str, other: str, value: Json) -> None:
    """What was sealed for something else, or by somebody else, opens nothing."""
    text = SEAL.close(one, value)
    assert (SEAL.open(other, text) is None) == (one != other)
    assert Seal(bytes(KEY_BYTES)).open(one, text) is None


@given(st.text())
def test_rubbish_opens_nothing(text: str) -> None:
    """Any text at all can be shown."""
    assert SEAL.open("p", text) is None


def test_a_text_beyond_all_sizes_is_not_even_read() -> None:
    """Nobody decodes megabytes that are none of ours."""
    assert SEAL.open("p", "A" * (5 * 1024 * 1024)) is None


def test_the_key_is_made_once(tmp_path: Path) -> None:
    """The first run makes a private key, the next one finds it, and a broken one is told."""
    path = tmp_path / "state" / "gateway.key"
    key = load_key(path)
    assert len(key) == KEY_BYTES
    assert load_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    _ = path.write_bytes(key[:-1])
    with pytest.raises(StateCorruptError, match="holds no key"):
        _ = load_key(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StateCorruptError, match="cannot be read"):
        _ = load_key(path)
    assert load_key(tmp_path / "other") != key
