"""What `agents.yaml` may say about issuers that are services: Vault, OpenBao, AWS."""

from datetime import timedelta
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from orchestrator.model.base import Json, Model, PositiveDuration
from orchestrator.model.names import SecretField
from orchestrator.model.reference import SecretRefField
from orchestrator.model.stores import DEFAULT_STORE, StoreField

Word = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Words: TypeAlias = Annotated[tuple[Word, ...], Field(min_length=1, max_length=64, strict=False)]
# Of a part, the first character is no dot: a path means what it says.
LEASE_PATH_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._@-]*)+$"
AWS_SECRET_PATTERN = r"^[A-Za-z0-9/_+=.@:{}-]{1,512}$"  # noqa: S105 # the form of a name


class VaultLeaseIssuer(Model):
    """A Vault or OpenBao server makes the credentials, each with a lease.

    See `docs/how-to/vault-and-aws.md`.

    Attributes:
        kind: `vault-lease`.
        store: The server: a name under `stores:`.
        path: What is read there, such as `database/creds/app`, or `auth/token/create` for tokens.
        parameters: What is sent along; never a secret.
        sweep: Whether tokens that were lost in a crash are looked for among all that the server
            knows. Its login then needs `sudo` for `auth/token/accessors`. Without it such a token
            ends by its time alone, as all other leases do.
        probe: How it is told whether a credential is accepted: a program, as for `manual`, or
            `lease`, which takes the server's word that a lease has ended for it. Tokens need none.
            Without it the receipt says that the end was not proved.
        timeout: How long that program may take.
        env: Plain variables of that program.
        secrets: Variables of that program whose values are resolved when it is run.
    """

    kind: Literal["vault-lease"]
    store: StoreField = DEFAULT_STORE
    path: Annotated[str, StringConstraints(pattern=LEASE_PATH_PATTERN, max_length=512)]
    parameters: dict[str, Json] = Field(default_factory=dict)
    sweep: bool = False
    probe: Words | Literal["lease"] | None = None
    timeout: PositiveDuration = timedelta(seconds=30)
    env: dict[SecretField, str] = Field(default_factory=dict)
    secrets: dict[SecretField, SecretRefField] = Field(default_factory=dict)

    @property
    def makes_tokens(self) -> bool:
        """Whether it makes tokens of the server itself."""
        return self.path.startswith("auth/token/create")


AwsVerb: TypeAlias = Literal["mint", "set", "test", "revoke"]


class AwsSmIssuer(Model):
    """A random password, or what a program makes, kept in AWS Secrets Manager.

    See `docs/how-to/vault-and-aws.md`. The four steps of AWS: a new version is made as AWSPENDING,
    set at the service, tested, and becomes AWSCURRENT. The credential is kept there and nowhere
    else.

    Attributes:
        kind: `aws-sm`.
        store: The region and login: a name under `stores:`.
        secret: The secret's name or ARN; `{role}` is filled in.
        field: The key whose value is replaced; all others stay as they are. Without it the whole
            secret is one text.
        length: How long a random password is.
        exclude: Characters that it does not have.
        verbs: Programs: `mint` makes the credential instead of a random password, `set` tells the
            service, `test` tells whether a credential is accepted, `revoke` ends the old one.
            Each reads JSON on stdin.
        overlap: Whether a new credential works beside the old one. If not, calls wait while it is
            replaced.
        max_life: How long a credential lives at most.
        timeout: How long a program may take.
        env: Plain variables of the programs.
        secrets: Variables of the programs whose values are resolved when one is run.
    """

    kind: Literal["aws-sm"]
    store: StoreField = DEFAULT_STORE
    secret: Annotated[str, StringConstraints(pattern=AWS_SECRET_PATTERN)]
    field: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    length: Annotated[int, Field(ge=16, le=128)] = 32
    exclude: Annotated[str, StringConstraints(max_length=256)] = ""
    verbs: dict[AwsVerb, Words] = Field(default_factory=dict)
    overlap: bool
    max_life: PositiveDuration | None = None
    timeout: PositiveDuration = timedelta(seconds=30)
    env: dict[SecretField, str] = Field(default_factory=dict)
    secrets: dict[SecretField, SecretRefField] = Field(default_factory=dict)
