"""What is taken out of texts of others."""

import base64
import json
import threading
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from orchestrator.secrets.redact import HIDDEN, Redactor, redact

VALUE = 'canary/"täst"+1 ?\\x'
SECRETS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=8, max_size=40)


def cleaned(text: str, *values: str) -> str:
    """Clean a text of values."""
    return Redactor(map(SecretStr, values)).clean(text)


@pytest.mark.parametrize(
    "form",
    [
        VALUE,
        quote(VALUE, safe=""),
        quote(VALUE),
        quote_plus(VALUE),
        quote(VALUE, safe="").lower(),
        VALUE.encode().hex(),
        VALUE.encode().hex().upper(),
        json.dumps(VALUE),
        json.dumps(VALUE, ensure_ascii=False),
        repr(VALUE),
        base64.b64encode(VALUE.encode()).decode(),
        base64.urlsafe_b64encode(VALUE.encode()).decode(),
    ],
)
def test_every_form_of_a_value(form: str) -> None:
    """A value is taken out plain, escaped for JSON, URLs and Python, as hex and as Base64."""
    found = cleaned(f"before {form} after", VALUE)
    assert HIDDEN in found
    assert found.startswith("before ")
    assert found.endswith(" after")
    assert "canary" not in found


@example(value="aaaaaaaa", before=b"", after=b"", url=False)
@given(
    value=SECRETS,
    before=st.binary(max_size=5),
    after=st.binary(max_size=5),
    url=st.booleans(),
)
def test_a_value_inside_base64(value: str, before: bytes, after: bytes, *, url: bool) -> None:
    """What Base64 makes of a value among other bytes is taken out, however they are aligned."""
    encode = base64.urlsafe_b64encode if url else base64.b64encode
    text = encode(before + value.encode() + after).decode()
    found = cleaned(text, value)
    assert HIDDEN in found
    # The letters at both ends hold bits of a neighbour, too.
    assert len(found.replace(HIDDEN, "")) <= len(text) - len(value.encode()) * 8 // 6 + 4


def test_the_longer_value_goes_first() -> None:
    """Of two values, one inside the other, nothing of the longer one is left."""
    assert cleaned("x canary-one-two y", "canary-one", "canary-one-two") == f"x {HIDDEN} y"


def test_lines_of_a_key() -> None:
    """A key of several lines is taken out line by line, but for lines too short to be one."""
    key = "-----BEGIN KEY-----\nY2FuYXJ5Y2FuYXJ5\nab\n-----END KEY-----"
    assert cleaned("at Y2FuYXJ5Y2FuYXJ5: ab", key) == f"at {HIDDEN}: ab"


def test_tokens_of_any_kind() -> None:
    """Agent and wallet tokens are taken out, whoever's they are."""
    agent = f"mga_{'a' * 12}_{'b' * 49}"
    wallet = f"mpc_key_{'0' * 64}"
    assert redact(f"{agent} and {wallet}") == f"{HIDDEN} and {HIDDEN}"


def test_bytes_of_the_environment() -> None:
    """A value whose bytes are no characters is taken out, too, and is no reason to fail."""
    value = "canary\udcff-value"
    assert cleaned(f"x {value} {value.encode(errors='surrogateescape').hex()}", value) == (
        f"x {HIDDEN} {HIDDEN}"
    )


def test_nothing_else_is_touched() -> None:
    """Text without a value stays as it is, and an empty value hides nothing."""
    text = "connection refused: 127.0.0.1:5432"
    assert cleaned(text, VALUE, "") == text


def test_very_many_values() -> None:
    """The oldest of very many values are forgotten, so that cleaning stays quick."""
    redactor = Redactor()
    redactor.learn(SecretStr(f"canary-{number:06}") for number in range(1001))
    assert redactor.clean("canary-000000") == "canary-000000"
    assert redactor.clean("canary-000001 canary-001000") == f"{HIDDEN} {HIDDEN}"


def test_values_are_learned_by_many_threads() -> None:
    """Values that threads learn at the same time are all known afterwards."""
    redactor = Redactor()
    names = [f"canary-{number}-value" for number in range(50)]
    threads = [threading.Thread(target=redactor.learn, args=([SecretStr(name)],)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(redactor.clean(name) == HIDDEN for name in names)
