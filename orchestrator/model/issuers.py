"""What `agents.yaml` may say about who makes credentials, and where they are kept."""

import hashlib
from datetime import timedelta
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, StringConstraints

from orchestrator.model.base import Json, Model, PositiveDuration
from orchestrator.model.issuers_cloud import AwsSmIssuer, VaultLeaseIssuer
from orchestrator.model.names import RoleName, SecretField, UserField
from orchestrator.model.reference import SecretRefField
from orchestrator.model.role import Sentence

Verb: TypeAlias = Literal["mint", "probe", "revoke", "list"]
Revoking: TypeAlias = Literal["api", "disable", "expiry", "manual"]

KEEP_PATTERN: Final = r"^(vault://([a-z][a-z0-9-]*)?/[^\s#?]+|aws-sm://[^\s#?]+)$"
LONGEST_NAME: Final = 32
# Begins the names of issuers that stand for a role's `vault-lease:` references.
IMPLIED: Final = "lease-"

Word = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Words = Annotated[tuple[Word, ...], Field(min_length=1, max_length=64, strict=False)]
KeepField = Annotated[str, StringConstraints(pattern=KEEP_PATTERN, max_length=1024)]


class CommandIssuer(Model):
    """Programs of yours make the credentials; see `docs/how-to/rotate-with-a-program.md`.

    Attributes:
        kind: `command`.
        run: The program and its arguments, for every verb that `verbs` does not name. No shell;
            `{python}`, `{project}` and `{state}` are filled in. No secret: arguments can be read
            by every user of the machine.
        verbs: Programs of their own for single verbs: `mint`, `probe`, `revoke`, `list`.
        overlap: Whether a new credential works beside the old one. If not, calls wait while it is
            replaced.
        revoke: How a credential ends: `api` or `disable` if the program does it, `expiry` if only
            its time does, `manual` if a person has to.
        lists: Whether the program can tell what it made. Without it a person has to look after a
            crash in the wrong moment.
        probes: Whether the program can tell if a credential is accepted. Without it an old one is
            ended, and its receipt says that nobody saw that.
        max_life: How long a credential lives at most.
        timeout: How long the program may take.
        keep: Where made credentials are kept instead of the project's own vault:
            `vault://STORE/MOUNT/PATH` or `aws-sm://NAME`.
        env: Plain variables of the program; it gets no others than these, `secrets`, `PATH`,
            `LANG` and `TZ`.
        secrets: Variables of the program whose values are resolved when it is run.
    """

    kind: Literal["command"]
    run: Words | None = None
    verbs: dict[Verb, Words] = Field(default_factory=dict)
    overlap: bool
    revoke: Revoking
    lists: bool = False
    probes: bool = False
    max_life: PositiveDuration | None = None
    timeout: PositiveDuration = timedelta(seconds=30)
    keep: KeepField | None = None
    env: dict[SecretField, str] = Field(default_factory=dict)
    secrets: dict[SecretField, SecretRefField] = Field(default_factory=dict)

    def command(self, verb: Verb) -> tuple[str, ...] | None:
        """Tell the words that ask for a verb, None if nothing does."""
        return self.verbs.get(verb, self.run)


class ManualIssuer(Model):
    """A person makes the credentials, and gives them with `agents rotate provide`.

    Attributes:
        kind: `manual`.
        instructions: What the person has to do; shown each time.
        overlap: Whether a new credential works beside the old one. If not, calls wait while it is
            replaced.
        max_life: How long a credential lives at most.
        probe: A program that tells whether a credential is accepted, as for `command`; without
            it a person has to confirm each end.
        timeout: How long that program may take.
        keep: Where given credentials are kept instead of the project's own vault, as for `command`.
        env: Plain variables of that program.
        secrets: Variables of that program whose values are resolved when it is run.
    """

    kind: Literal["manual"]
    instructions: Sentence
    overlap: bool
    max_life: PositiveDuration | None = None
    probe: Words | None = None
    timeout: PositiveDuration = timedelta(seconds=30)
    keep: KeepField | None = None
    env: dict[SecretField, str] = Field(default_factory=dict)
    secrets: dict[SecretField, SecretRefField] = Field(default_factory=dict)


class WalletSuiteIssuer(Model):
    """The role's own wallet server makes agent tokens, in an owner's instance that ends at once.

    No tool of it ends a token: a person does, and `agents rotate approve-revoke` confirms it.

    Attributes:
        kind: `walletsuite`.
        wallet: The wallet that the tokens are bound to.
        overlap: Whether a new token works beside the old one; WalletSuite does not document it.
        max_life: How long a token lives at most.
        arguments: Further arguments of `create_agent_api_key`; no secret.
        omit: Arguments that this server does not know.
        keep: Where tokens are kept instead of the project's own vault, as for `command`.
        env: Plain variables of the owner's instance.
        secrets: Secrets of the owner's instance.
        user: The unix user that the owner's instance runs as, another one than the role's.
            `agents up --users` makes one.
    """

    kind: Literal["walletsuite"]
    wallet: Word
    overlap: bool = False
    max_life: PositiveDuration = timedelta(days=90)
    arguments: dict[str, Json] = Field(default_factory=dict)
    omit: Annotated[tuple[Literal["label", "ttlDays"], ...], Field(strict=False)] = ()
    keep: KeepField | None = None
    env: dict[SecretField, str] = Field(default_factory=dict)
    secrets: dict[SecretField, SecretRefField] = Field(default_factory=dict)
    user: UserField | None = None


class OwnVault(Model):
    """Where the project keeps the credentials that issuers made: encrypted, inside the state.

    Attributes:
        key: Where the key is kept: 32 bytes as 64 hexadecimal digits or as Base64. Without it one
            is made, once, in a file inside the state.
    """

    key: SecretRefField | None = None


IssuerSettings: TypeAlias = Annotated[
    CommandIssuer | ManualIssuer | WalletSuiteIssuer | VaultLeaseIssuer | AwsSmIssuer,
    Field(discriminator="kind"),
]


def lease_issuer(role: RoleName) -> str:
    """Name the issuer that a role's `vault-lease:` references stand for."""
    fits = len(IMPLIED) + len(role) <= LONGEST_NAME
    return IMPLIED + (role if fits else hashlib.sha256(role.encode()).hexdigest()[:10])
