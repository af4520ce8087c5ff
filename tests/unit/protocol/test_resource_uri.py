"""Allowlists of URIs: exactly what they name, and no other spelling of anything else."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.protocol.resource_uri import UriRule

PLAIN = st.text(string.ascii_letters + string.digits + "._~-", min_size=1).filter(
    lambda text: text not in {".", ".."}
)


@given(st.text(max_size=30))
def test_an_exact_uri_names_itself_alone(other: str) -> None:
    """An entry without a variable is compared as it is written."""
    rule = UriRule("docs://guide/a%20b")
    assert rule.is_exact
    assert rule.allows("docs://guide/a%20b")
    assert rule.allows(other) == (other == "docs://guide/a%20b")
    assert not rule.covers("docs://guide/{name}")


@given(PLAIN, PLAIN)
def test_a_variable_is_one_segment(one: str, other: str) -> None:
    """A variable stands for any plain segment, and for no more than one."""
    rule = UriRule("file:///srv/{team}/report-{day}.md")
    assert rule.allows(f"file:///srv/{one}/report-{other}.md")
    assert not rule.allows(f"file:///srv/{one}/{other}/report-1.md")
    assert not rule.allows(f"file:///srv/{one}/report-{other}.md/")
    assert not rule.allows(f"file:///etc/{one}/report-{other}.md")


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/docs/",
        "file:///srv/docs/.",
        "file:///srv/docs/..",
        "file:///srv/docs/a/b",
        "file:///srv/docs/a/../b",
        "file:///srv/docs/%2e%2e",
        "file:///srv/docs/a%2fb",
        "file:///srv/docs/a%",
        "file:///srv/docs/a\\b",
        "file:///srv/docs/a?b",
        "file:///srv/docs/a#b",
        "file:///srv/docs/a;b",
        "file:///srv/docs/a b",
        "file:///srv/docs/a\n",
        "file:///srv/docs/a\0",
        "file:///srv/docs/\0",
        "file:///srv/docs/é",
        "file:///srv/docs/{name}",
        "FILE:///srv/docs/a",
        "file:/srv/docs/a",
        "file://localhost/srv/docs/a",
        "file:////srv/docs/a",
        "file:///srv//docs/a",
        "xfile:///srv/docs/a",
        "",
    ],
)
def test_tricks(uri: str) -> None:
    """No other spelling gets through a variable."""
    assert not UriRule("file:///srv/docs/{name}").allows(uri)


def test_names_in_place_of_a_host() -> None:
    """Many servers name things right after the scheme: a variable there is a plain name."""
    rule = UriRule("memo://{id}")
    assert rule.allows("memo://first.one")
    for other in ("memo://a@b", "memo://a:1", "memo://a/b", "memo://"):
        assert not rule.allows(other)


def test_templates_of_a_server() -> None:
    """A server's template is shown where all that it leads to is allowed."""
    rule = UriRule("repo://acme/{project}/issues/{number}")
    assert rule.covers("repo://acme/{project}/issues/{number}")
    assert rule.covers("repo://acme/{p}/issues/1")
    assert rule.covers("repo://acme/tools/issues/{n}")
    assert not rule.covers("repo://{owner}/{project}/issues/{number}")
    assert not rule.covers("repo://acme/{+path}")
    assert not rule.covers("repo://acme/{project}/issues/{number}{?page}")
    assert not rule.covers("repo://acme/..{p}/../issues/1")
    # What a template names without a variable is that one URI.
    assert not UriRule("repo://acme/x").covers("repo://acme/{project}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "docs",
        "/docs/a",
        "docs:",
        "docs://a b",
        "docs://a\n",
        "docs://a\\b",
        "docs://a/../b",
        "docs://.",
        "docs://{a}{b}",
        "docs://{a}-{b}",
        "docs://{+a}",
        "docs://{a*}",
        "docs://{a",
        "docs://a}",
        "docs://{}",
        "docs://a?b={c}",
        "docs://a#{c}",
        "https://{host}/a",
        "https://{host}.example.com/a",
        "file://{host}/a",
        "{scheme}://a",
        "x{y}z:a",
    ],
)
def test_what_is_no_entry(text: str) -> None:
    """What could mean more than it seems to is refused."""
    with pytest.raises(ValueError, match=r"URI|variable"):
        _ = UriRule(text)


@given(st.text(string.ascii_letters + "/:.{}%\0?#", max_size=20), st.text(max_size=20))
def test_anything(text: str, uri: str) -> None:
    """Whatever is written, an entry is refused, or names no relative place."""
    try:
        rule = UriRule(text)
    except ValueError:
        return
    if rule.allows(uri):
        assert not {".", ".."} & set(uri.split("/"))
    _ = rule.covers(uri)
