"""What may stand under `notify:`."""

import pytest
from pydantic import TypeAdapter, ValidationError

from orchestrator.model.notify import NotifyPlan, Target, address_in

TARGET: TypeAdapter[Target] = TypeAdapter(Target)
MAIL = {"smtp": "smtp.example.com:587", "from": "a@example.com", "to": ["b@example.com"]}


@pytest.mark.parametrize(
    "given",
    [
        {"webhook": "http://alerts.example.com/hook"},
        {"webhook": "https://user:pw@alerts.example.com/hook"},
        {"webhook": "https://"},
        {"webhook": "ftp://alerts.example.com/hook"},
        {"webhook": 3},
        {"webhook": "https://alerts.example.com/hook", "extra": 1},
        {"smtp": "smtp.example.com"},
        {**MAIL, "smtp": "smtp.example.com:0"},
        {**MAIL, "security": "none"},
        {**MAIL, "user": "robot"},
        {**MAIL, "password": "env:PASSWORD"},
        {**MAIL, "to": []},
        {**MAIL, "to": ["b@example.com\nBcc: c@example.com"]},
        {"command": []},
        {"topics": ["incident"]},
        {},
        "https://alerts.example.com/hook",
    ],
)
def test_what_is_refused(given: object) -> None:
    """Nothing that others could read, that is half said, or that is nothing at all."""
    with pytest.raises(ValidationError):
        _ = TARGET.validate_python(given)


def test_what_is_kept_is_read_again() -> None:
    """The state file holds what the settings said."""
    plan = NotifyPlan.model_validate(
        {
            "targets": {
                "ops": {"webhook": "https://alerts.example.com/hook", "secret": "env:HOOK"},
                "far": {"webhook": "env:HOOK_URL", "topics": ["incident"]},
                "mail": {**MAIL, "user": "robot", "password": "env:PASSWORD"},
                "page": {"command": ["/usr/local/bin/page"], "timeout": "5s"},
            },
            "owners": {"treasury": "Treasury <owner@example.com>"},
        }
    )
    assert NotifyPlan.model_validate_json(plan.model_dump_json(), strict=False) == plan


@pytest.mark.parametrize(
    ("owner", "address"),
    [
        ("Treasury team <owner@example.com>", "owner@example.com"),
        ("owner@example.com.", "owner@example.com"),
        ("Treasury team", ""),
        ("a @ b", ""),
    ],
)
def test_an_owner_may_have_an_address(owner: str, address: str) -> None:
    """The first address in the sentence is the owner's."""
    assert address_in(owner) == address
