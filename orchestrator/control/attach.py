"""Roles whose servers somebody else runs: what the gateway has to know of them; pure."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from orchestrator.errors import SettingsError
from orchestrator.model.desired import CredentialPlan, Desired
from orchestrator.model.names import RoleName
from orchestrator.model.role import Restart
from orchestrator.model.workload import HttpServing, WorkloadSpec

# Nothing is started again here: it is only looked for, and for as long as it takes.
_LOOKING: Final = Restart(backoff_max=timedelta(seconds=2))


def attach(desired: Desired, urls: Mapping[RoleName, str]) -> Desired:
    """Turn what this machine would run into what is only reached.

    Variables, secrets and users of the servers are left out: whoever starts them gives them those.

    Args:
        desired: What the files say.
        urls: Where the server of each role serves HTTP.

    Raises:
        SettingsError: A role has no address, or asks for what only our own processes can do.
    """
    missing = sorted(desired.roles.keys() - urls.keys())
    if missing:
        name = missing[0]
        raise SettingsError(
            f"nobody says where the server of {' and of '.join(missing)} is",
            hint=f"Write it into agents.yaml under `attach:`, or give --attach {name}=URL, or name "
            "only the roles that are to be served.",
        )
    roles = {role: _attached(spec, urls[role]) for role, spec in desired.roles.items()}
    credentials = CredentialPlan(vault=desired.credentials.vault, stores=desired.credentials.stores)
    return Desired(gateway=desired.gateway, roles=roles, credentials=credentials)


def _attached(spec: WorkloadSpec, url: str) -> WorkloadSpec:
    if spec.sharing != "per-role":
        raise SettingsError(
            f"{spec.role} has `instances: {spec.sharing}`, and its server is started by somebody "
            "else, once",
            hint="Agents that must not share a process need `agents up`.",
        )
    return spec.model_copy(
        update={
            "argv": ("attached",),
            "directory": "/",
            "env": {},
            "secrets": {},
            "user": "",
            "container": None,
            "standby": 0,
            "restart": _LOOKING,
            "http": HttpServing(listen="port", path=urlsplit(url).path),
            "rotation": spec.rotation.model_copy(update={"upstream": None}),
            "attached": url,
        }
    )
