"""What issuers that are services need: a database under OpenBao, a service with passwords."""

from __future__ import annotations

import json
import secrets
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Final, cast, final

import pytest

from orchestrator.clock import SystemClock
from orchestrator.model.issuers_cloud import AwsSmIssuer
from orchestrator.rotation.issuers.aws_sm import SecretsManagerIssuer
from orchestrator.rotation.issuers.program import Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from pydantic import SecretStr

    from orchestrator.model.names import SecretName
    from orchestrator.model.secret import SecretRef
    from orchestrator.secrets.aws_client import AwsClient
    from tests.conftest import Bao, Postgres

# A service that knows the passwords in a file: `set` adds one, or replaces all without overlap.
SERVICE = """
import json, pathlib, sys
file, overlap = pathlib.Path(sys.argv[1]), sys.argv[2] == "overlap"
asked = json.load(sys.stdin)
known = json.loads(file.read_text())
word = asked["fields"]["password"] if "fields" in asked else asked.get("secret")
match asked["verb"]:
    case "set":
        if known == ["broken"]:
            sys.exit(75)
        if known == ["lost"]:
            sys.exit(1)
        known = [*known, word] if overlap else [word]
    case "revoke":
        known = [each for each in known if each != word]
    case "mint":
        if known[0].isdigit():
            sys.exit(int(known[0]))
        fields = {"username": asked["name"], "password": "made-by-program-1"}
        if known == ["empty"]:
            fields = {}
        print(json.dumps({"fields": fields, "expiresAt": "2030-01-01T00:00:00Z"}))
        sys.exit()
    case "probe":
        print(json.dumps({"verdict": "accepted" if word in known else "refused"}))
        sys.exit()
file.write_text(json.dumps(known))
print("{}")
"""


async def _none(references: Mapping[SecretName, SecretRef]) -> Mapping[SecretName, SecretStr]:
    assert not references
    return {}


AROUND: Final = Surroundings(str, {}, {}, _none, timedelta(seconds=20))


@pytest.fixture
def around() -> Surroundings:
    """Give programs nothing but a baseline."""
    return AROUND


@pytest.fixture
def database(bao: Bao, postgres: Postgres) -> Generator[str]:
    """Let the server make users of the database, for an hour, at most for two days; tell where."""
    _ = bao.do("POST", "sys/mounts/database", {"type": "database"})
    _ = bao.do(
        "POST",
        "database/config/pg",
        {
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "app",
            "connection_url": "postgresql://{{username}}:{{password}}"
            f"@127.0.0.1:{postgres.port}/postgres?sslmode=disable&connect_timeout=30",
            "username": "admin",
            "password": postgres.password,
        },
    )
    _ = bao.do(
        "POST",
        "database/roles/app",
        {
            "db_name": "pg",
            "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' "
            "VALID UNTIL '{{expiration}}';",
            "default_ttl": "1h",
            "max_ttl": "48h",
        },
    )
    yield "database/creds/app"
    _ = bao.do("PUT", "sys/leases/revoke-prefix/database", {"sync": True})
    _ = bao.do("DELETE", "sys/mounts/database")


@final
class Service:
    """A service whose passwords are rotated, and issuers for it."""

    def __init__(self, place: Path, client: AwsClient, secret: str) -> None:
        """Begin with one password that nobody manages yet."""
        self.file = place / "known.json"
        self.client = client
        self.secret = secret
        self._script = place / "service.py"
        _ = self._script.write_text(SERVICE)
        self.knows("old-password")

    def knows(self, *words: str) -> None:
        """Let the service accept these passwords and no other."""
        _ = self.file.write_text(json.dumps(words))

    def knows_word(self, word: str) -> bool:
        """Tell whether a password is accepted."""
        return word in cast("list[str]", json.loads(self.file.read_text()))

    def issuer(
        self, *verbs: str, overlap: bool = True, client: AwsClient | None = None, **more: object
    ) -> SecretsManagerIssuer:
        """Make an issuer whose programs do these verbs."""
        word = "overlap" if overlap else "replace"
        program = [sys.executable, str(self._script), str(self.file), word]
        settings = AwsSmIssuer.model_validate(
            {
                "kind": "aws-sm",
                "store": "aws",
                "secret": f"{self.secret}/{{role}}",
                "overlap": overlap,
                "verbs": dict.fromkeys(verbs, program),
                **more,
            }
        )

        return SecretsManagerIssuer(settings, client or self.client, SystemClock(), AROUND)


@pytest.fixture
def service(tmp_path: Path, region: Callable[..., AwsClient]) -> Service:
    """Run no process: the service is a file that the programs know."""
    return Service(tmp_path, region(), f"bandmaster-{secrets.token_hex(4)}")
