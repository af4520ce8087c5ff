"""What is asked of credentials, answered by the real orders over an engine in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import anyio
import pytest
from pydantic import SecretStr

from orchestrator.errors import (
    NotRunningError,
    RotationBusyError,
    RotationUnknownError,
    SettingsError,
)
from orchestrator.model.admin import (
    CredentialRequest,
    Progress,
    ReopenRequest,
    Result,
    RevokeAllRequest,
    RotateRequest,
    RotationActRequest,
    RotationProvideRequest,
    RotationsRequest,
)
from orchestrator.model.names import AgentName, RoleName
from orchestrator.model.rotation import State
from orchestrator.rotation.orders import CredentialOrders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.rotation.schedule import Due
    from tests.integration.credentials.conftest import MemoryEngine

Object = dict[str, object]
TREASURY = RoleName("treasury")


async def ask(engine: MemoryEngine, request: CredentialRequest) -> tuple[list[Object], Object]:
    """Ask; return all progress, and the result."""

    async def wait() -> MemoryEngine:
        return engine

    async def changed() -> None:
        engine.asked.append(("changed",))

    orders = CredentialOrders(wait, lambda: (RoleName("monitoring"), TREASURY), changed)
    progress: list[Object] = []
    result: Result | None = None
    with anyio.fail_after(30):
        async for reply in orders.answer(request):
            if isinstance(reply, Progress):
                progress.append(cast("Object", reply.body))
            else:
                assert result is None
                result = reply
    assert result is not None
    return progress, cast("Object", result.body)


def objects(body: Object, key: str) -> list[Object]:
    """Read a list of a result."""
    return cast("list[Object]", body[key])


def names(rows: Sequence[Object]) -> list[tuple[object, object, object]]:
    """Tell which credentials rows are about."""
    return [(row["role"], row["purpose"], row["agent"]) for row in rows]


async def test_roles_are_rotated_one_after_the_other(engine: MemoryEngine) -> None:
    """From the least to the most power; each state is told; tokens by hand are left alone."""
    progress, body = await ask(engine, RotateRequest())
    assert names(objects(body, "rotations")) == [
        ("monitoring", "upstream", ""),
        ("treasury", "agent", "workstation"),
        ("treasury", "upstream", ""),
    ]
    assert [one["state"] for one in objects(body, "rotations")] == ["done", "staged", "done"]
    assert [one["state"] for one in progress][:9] == [
        "planned",
        "minting",
        "staged",
        "verified",
        "promoted",
        "switched",
        "drained",
        "revoking",
        "done",
    ]
    assert names(objects(body, "left")) == [("treasury", "agent", "alice")]
    assert engine.asked == [("changed",)]


async def test_an_agent_with_two_tokens_is_meant_once(
    engine: MemoryEngine, credentials: dict[str, Due]
) -> None:
    """Both are in the list, and one rotation is begun."""
    engine.credentials.append(replace(credentials["delivered"], credential="second"))
    _, body = await ask(engine, RotateRequest(agent=AgentName("workstation")))
    assert len(objects(body, "rotations")) == 1
    assert body["refused"] == []


@pytest.mark.parametrize("end", [State.FAILED, State.HELD])
async def test_the_first_failure_is_the_last(
    engine: MemoryEngine, credentials: dict[str, Due], end: State
) -> None:
    """What would have come after it is not begun, and is told as left."""
    engine.lead(credentials["least"], State.MINTING, end)
    _, body = await ask(engine, RotateRequest())
    (only,) = objects(body, "rotations")
    assert (only["role"], only["state"]) == ("monitoring", end)
    assert len(objects(body, "left")) == 3


async def test_a_token_by_hand_is_shown_once_to_who_named_its_agent(engine: MemoryEngine) -> None:
    """Its text is in the result and in no progress."""
    request = RotateRequest(agent=AgentName("alice"), reason="a laptop is gone")
    progress, body = await ask(engine, request)
    (only,) = objects(body, "rotations")
    token = str(only["token"])
    assert token.startswith("mga_")
    assert only["reason"] == "a laptop is gone"
    assert token not in str(progress)
    _, again = await ask(engine, RotationsRequest(id=str(only["id"])))
    assert token not in str(again)


async def test_nobody_is_given_a_token_that_nobody_asked_for(engine: MemoryEngine) -> None:
    """Where only tokens by hand are left, the answer says how to get them."""
    engine.credentials = [one for one in engine.credentials if one.by_hand]
    with pytest.raises(RotationUnknownError) as caught:
        _ = await ask(engine, RotateRequest(roles=(TREASURY,)))
    assert "--agent alice" in str(caught.value.hint)
    assert engine.known == {}


async def test_a_dry_run_does_nothing(engine: MemoryEngine) -> None:
    """It tells what would be replaced and what would not."""
    _, body = await ask(engine, RotateRequest(purpose="upstream", dry_run=True))
    assert [row["role"] for row in objects(body, "planned")] == ["monitoring", "treasury"]
    _, due = await ask(engine, RotateRequest(due=True, dry_run=True))
    assert names(objects(due, "planned")) == [
        ("monitoring", "upstream", ""),
        ("treasury", "agent", "workstation"),
    ]
    assert len(objects(due, "left")) == 2
    assert (engine.known, engine.asked) == ({}, [])


async def test_what_is_due_is_the_engines_own_tick(engine: MemoryEngine) -> None:
    """One upstream credential a run; the rest is told; what is held already is told again."""
    _, body = await ask(engine, RotateRequest(due=True))
    assert engine.asked[0] == ("tick", "operator")
    assert len(objects(body, "rotations")) == 2
    assert names(objects(body, "left")) == [
        ("treasury", "agent", "alice"),
        ("treasury", "upstream", ""),
    ]
    assert body["held"] == []


async def test_what_was_held_before_is_told_by_every_due_run(
    nothing_due: MemoryEngine, credentials: dict[str, Due]
) -> None:
    """A job that runs every day keeps failing until a person has done their part."""
    nothing_due.lead(credentials["upstream"], State.REVOKING, State.HELD)
    _ = await ask(nothing_due, RotateRequest(roles=(TREASURY,), purpose="upstream"))
    progress, body = await ask(nothing_due, RotateRequest(due=True))
    assert (progress, body["rotations"]) == ([], [])
    (held,) = objects(body, "held")
    assert held["held_for"] == "delete the old key in the console"


async def test_due_of_one_role_only(engine: MemoryEngine) -> None:
    """Named roles are looked at alone; the others wait for the daily run."""
    _, body = await ask(engine, RotateRequest(roles=(TREASURY,), due=True))
    assert names(objects(body, "rotations")) == [
        ("treasury", "agent", "workstation"),
        ("treasury", "upstream", ""),
    ]
    assert ("tick", "operator") not in engine.asked


async def test_nothing_is_due(nothing_due: MemoryEngine) -> None:
    """Nothing is begun, and nobody is told of a change."""
    progress, body = await ask(nothing_due, RotateRequest(due=True))
    assert (progress, body) == ([], {"rotations": [], "refused": [], "left": [], "held": []})
    assert nothing_due.asked == [("tick", "operator")]


async def test_one_at_a_time(engine: MemoryEngine, credentials: dict[str, Due]) -> None:
    """A credential that is being replaced is refused: alone as an error, among others as a row."""
    upstream = credentials["upstream"]
    engine.lead(upstream, State.REVOKING, State.HELD)
    request = RotateRequest(roles=(TREASURY,), purpose="upstream")
    _ = await ask(engine, request)
    with pytest.raises(RotationBusyError):
        _ = await ask(engine, request)
    _, body = await ask(engine, RotateRequest(purpose="upstream"))
    (refused,) = objects(body, "refused")
    assert (refused["role"], refused["code"]) == ("treasury", "rotation.busy")
    assert len(objects(body, "rotations")) == 1


@pytest.mark.parametrize(
    "cases",
    [
        RotateRequest(roles=(RoleName("nobody"),)),
        RotateRequest(roles=(TREASURY, RoleName("nobody")), due=True),
        RotationsRequest(role=RoleName("nobody")),
        RevokeAllRequest(roles=(TREASURY, RoleName("nobody")), reason="leak"),
        ReopenRequest(role=RoleName("nobody")),
    ],
)
async def test_an_unknown_role_stops_all_of_it(
    engine: MemoryEngine, cases: CredentialRequest
) -> None:
    """A role that is not there is told with those that are, before anything is done."""
    with pytest.raises(NotRunningError) as caught:
        _ = await ask(engine, cases)
    assert "nobody" in str(caught.value)
    assert "monitoring, treasury" in str(caught.value.hint)
    assert (engine.known, engine.asked) == ({}, [])


async def test_a_role_without_the_credential(engine: MemoryEngine) -> None:
    """There is nothing to replace, and the answer says what it takes."""
    with pytest.raises(RotationUnknownError) as caught:
        _ = await ask(engine, RotateRequest(agent=AgentName("bob")))
    assert "bob" in str(caught.value)
    engine.credentials = []
    with pytest.raises(RotationUnknownError):
        _ = await ask(engine, RotateRequest(purpose="upstream"))


@pytest.mark.parametrize(
    ("act", "end"), [("resume", "done"), ("abort", "failed"), ("approve-revoke", "done")]
)
async def test_a_persons_word(
    engine: MemoryEngine, credentials: dict[str, Due], act: str, end: str
) -> None:
    """A held rotation goes on as the person says, and is followed to its end."""
    engine.lead(credentials["upstream"], State.REVOKING, State.HELD)
    _, body = await ask(engine, RotateRequest(roles=(TREASURY,), purpose="upstream"))
    identity = str(objects(body, "rotations")[0]["id"])
    request = RotationActRequest.model_validate({"id": identity, "act": act})
    progress, told = await ask(engine, request)
    assert (progress[-1]["state"], told["state"]) == (end, end)
    assert (act, identity, "operator") in engine.asked
    with pytest.raises(RotationUnknownError):
        _ = await ask(engine, request)


async def test_a_value_goes_in_and_never_out(
    engine: MemoryEngine, credentials: dict[str, Due]
) -> None:
    """What a person provides reaches the engine and no answer."""
    engine.lead(credentials["upstream"], State.MINTING, State.HELD)
    _, body = await ask(engine, RotateRequest(roles=(TREASURY,), purpose="upstream"))
    identity = str(objects(body, "rotations")[0]["id"])
    request = RotationProvideRequest(id=identity, value=SecretStr("canary-5f0c"))
    assert "canary" not in repr(request)
    answer = await ask(engine, request)
    assert ("value", "canary-5f0c") in engine.asked
    assert "canary" not in str(answer)


async def test_rotations_are_told_with_what_is_current(engine: MemoryEngine) -> None:
    """All of a role, or one by its id; the newest first."""
    _ = await ask(engine, RotateRequest(purpose="upstream"))
    _, body = await ask(engine, RotationsRequest(role=TREASURY))
    assert [one["role"] for one in objects(body, "rotations")] == ["treasury"]
    assert len(objects(body, "credentials")) == 3
    assert body["notes"] == ["treasury upstream ends in 3 days"]
    (rotation,) = objects(body, "rotations")
    _, one = await ask(engine, RotationsRequest(id=str(rotation["id"])))
    assert one == {"rotations": [rotation]}
    with pytest.raises(RotationUnknownError):
        _ = await ask(engine, RotationsRequest(id="000000000000"))


async def test_everything_has_to_be_said(engine: MemoryEngine) -> None:
    """No roles is not all roles, and both at once is a mistake; nothing is revoked."""
    for request in (
        RevokeAllRequest(reason="leak"),
        RevokeAllRequest(roles=(TREASURY,), everything=True, reason="leak"),
    ):
        with pytest.raises(SettingsError):
            _ = await ask(engine, request)
    assert engine.asked == []
    _, receipt = await ask(engine, RevokeAllRequest(everything=True, reason="leak"))
    assert engine.asked[0] == ("revoke-all", "monitoring", "treasury", "leak", "operator")
    assert receipt["reason"] == "leak"


async def test_a_role_that_is_not_applied_any_more_has_credentials(
    engine: MemoryEngine, credentials: dict[str, Due]
) -> None:
    """Its tokens are revoked by name, and by everything."""
    engine.credentials.append(replace(credentials["delivered"], role=RoleName("gone")))
    _ = await ask(engine, RevokeAllRequest(roles=(RoleName("gone"),), reason="leak"))
    _ = await ask(engine, RevokeAllRequest(everything=True, reason="leak"))
    assert engine.asked[0][:2] == ("revoke-all", "gone")
    assert engine.asked[2][1:4] == ("monitoring", "treasury", "gone")


async def test_a_role_runs_again(engine: MemoryEngine) -> None:
    """It is reopened by name."""
    _, body = await ask(engine, ReopenRequest(role=TREASURY))
    assert engine.asked[0] == ("reopen", "treasury", "operator")
    assert body == {"role": "treasury", "was_closed": True}
