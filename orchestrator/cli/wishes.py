"""Writes down what should run, where no daemon is there to be told."""

from orchestrator.control.plan import Remove, Update, plan
from orchestrator.control.state import StateFile
from orchestrator.errors import SettingsError
from orchestrator.model.desired import Desired, GatewaySettings
from orchestrator.wiring.engine import bind


def need_port(listening: GatewaySettings, last_port: int) -> None:
    """Make sure that the gateway will get its address.

    Raises:
        SettingsError: Somebody else has it.
    """
    try:
        bind(listening, last_port).close()
    except OSError as error:
        where = f"{listening.host}:{listening.port}"
        raise SettingsError(
            f"the gateway cannot listen on {where}: {error.strerror}",
            hint="Another program has it. Set `listen:` in agents.yaml to another port, "
            "such as 127.0.0.1:8701. Nothing was started.",
        ) from error


def write_wishes(state: StateFile, wanted: Desired) -> None:
    """Write down what should run; a role that did not change keeps its generation."""
    current = state.state.roles
    for action in plan(wanted.roles, current):
        if isinstance(action, Remove):
            state.drop_role(action.role)
        else:
            kept = current[action.role].generation if isinstance(action, Update) else 0
            generation = kept or state.next_generation(action.role)
            spec = action.spec.model_copy(update={"generation": generation})
            state.keep_role(action.role, spec)
    state.update(
        gateway=wanted.gateway,
        bootstraps=wanted.bootstraps,
        credentials=wanted.credentials,
        notify=wanted.notify,
        audit=wanted.audit,
    )
