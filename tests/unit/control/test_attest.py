"""Promised tools against those that a live server shows."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.control.attest import Attestation, attest
from orchestrator.errors import AttestationError
from orchestrator.model.base import JsonObject
from orchestrator.model.workload import WorkloadSpec

MakeSpec = Callable[..., WorkloadSpec]


def show(*names: str) -> tuple[JsonObject, ...]:
    """List tools as a server does."""
    return tuple({"name": name, "inputSchema": {"type": "object"}} for name in names)


def refusal(spec: WorkloadSpec, *names: str) -> AttestationError:
    """Return the error that these tools cause."""
    with pytest.raises(AttestationError) as caught:
        _ = attest(spec, show(*names))
    return caught.value


@pytest.mark.parametrize("cut", [False, True])
def test_exactly_what_was_promised(make_spec: MakeSpec, cut: bool) -> None:
    """The promised tools pass as the server described them, in the server's order."""
    listed = show("order_goods", "list_goods")
    assert attest(make_spec(cut=cut), listed) == Attestation(listed, ())


@pytest.mark.parametrize("cut", [False, True])
def test_a_tool_that_nobody_knows_is_named(make_spec: MakeSpec, cut: bool) -> None:
    """One tool beyond the server file is refused by name, whoever cuts the list."""
    error = refusal(make_spec(cut=cut), "list_goods", "order_goods", "drain_till")
    assert error.tools == ("drain_till",)
    assert str(error) == (
        "reader shows tools that its server file does not name: drain_till "
        "(bands: look, order; mode: agent)"
    )
    assert error.hint


def test_a_server_with_bands_must_keep_to_them(make_spec: MakeSpec) -> None:
    """A tool of a higher band is refused where the server itself should have left it out."""
    error = refusal(make_spec(cut=False), "list_goods", "order_goods", "pay_bill")
    assert error.tools == ("pay_bill",)
    assert "it must not have: pay_bill" in str(error)


def test_a_server_without_bands_is_cut(make_spec: MakeSpec) -> None:
    """A tool of a higher band is left out where it is the gateway that cuts the list."""
    kept = attest(make_spec(cut=True), show("pay_bill", "list_goods", "order_goods"))
    assert kept == Attestation(show("list_goods", "order_goods"), ())


def test_unknown_tools_come_before_tools_of_other_bands(make_spec: MakeSpec) -> None:
    """Everything in excess is told at once, what nobody knows first."""
    error = refusal(make_spec(), "pay_bill", "zeal", "abuse")
    assert error.tools == ("abuse", "zeal", "pay_bill")


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        (("list_goods",), ("order_goods",)),
        ((), ("list_goods", "order_goods")),
    ],
)
def test_missing_tools_are_listed(
    make_spec: MakeSpec, shown: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    """A promised tool that the server does not show is told, and stops nothing."""
    assert attest(make_spec(), show(*shown)).missing == missing


def test_many_tools_are_shortened_in_words_only(make_spec: MakeSpec) -> None:
    """The sentence names ten tools; the error itself carries all of them."""
    error = refusal(make_spec(), *(f"tool_{number:02}" for number in range(30)))
    assert len(error.tools) == 30
    assert "tool_09 ..." in str(error)
    assert "tool_10" not in str(error)


@given(st.text(min_size=1, max_size=400))
def test_a_name_cannot_reach_the_terminal(make_spec: MakeSpec, name: str) -> None:
    """Whatever a server calls its tools, the sentence stays one short printable line."""
    spec = make_spec(tools={}, known=frozenset[str]())
    error = refusal(spec, name, "\x1b[2Jall is well\n")
    assert set(error.tools) == {name, "\x1b[2Jall is well\n"}
    assert str(error).isprintable()
    assert len(str(error)) < 600


@given(
    shown=st.sets(st.sampled_from(["list_goods", "order_goods", "pay_bill", "other"])),
    cut=st.booleans(),
)
def test_nothing_beyond_the_promise_ever_passes(
    make_spec: MakeSpec, shown: set[str], cut: bool
) -> None:
    """Whatever is shown, what passes is promised, and what is lost is told."""
    promised, known = {"list_goods", "order_goods"}, {"list_goods", "order_goods", "pay_bill"}
    excess = shown - (known if cut else promised)
    spec = make_spec(cut=cut)
    if excess:
        assert set(refusal(spec, *sorted(shown)).tools) == excess
        return
    passed = attest(spec, show(*sorted(shown)))
    assert {str(tool["name"]) for tool in passed.tools} == shown & promised
    assert set(passed.missing) == promised - shown
