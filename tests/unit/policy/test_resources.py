"""Resources and prompts of a role: none but those that are named."""

from orchestrator.policy.resources import Prompts, Resources


def test_nothing_by_default() -> None:
    """A role that names none has none."""
    resources = Resources(())
    assert not resources.allows("docs://a")
    assert not resources.shows("docs://{name}")
    assert not Prompts(()).allows("greet")


def test_what_is_named() -> None:
    """Exact URIs and templates are allowed, and nothing near them."""
    resources = Resources(("docs://guide", "docs://notes/{day}", "no uri"))
    assert resources.allows("docs://guide")
    assert resources.allows("docs://notes/monday")
    for uri in ("docs://guide/", "docs://Guide", "docs://notes/a/b", "no uri", ""):
        assert not resources.allows(uri)
    assert resources.shows("docs://notes/{any}")
    assert not resources.shows("docs://{any}")
    assert not resources.shows("docs://guide")
    assert Prompts(("greet",)).allows("greet")
    assert not Prompts(("greet",)).allows("Greet")


def test_all() -> None:
    """All is all."""
    assert Resources("all").allows("anything")
    assert Resources("all").shows("anything://{+x}")
    assert Prompts("all").allows("anything")
