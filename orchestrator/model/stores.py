"""What `agents.yaml` says of stores of secrets that are reached over the network."""

import ipaddress
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Final, Literal, Self, TypeAlias
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema, model_validator

from orchestrator.model.base import Model, PositiveDuration
from orchestrator.model.reference import SecretRefField
from orchestrator.model.secret import SecretRef

# The store that a reference means which names none.
DEFAULT_STORE: Final = "default"
_NEEDS_A_STORE: Final = frozenset({"vault", "vault-lease", "aws-sm", "issued"})
_LONGEST: Final = timedelta(seconds=60)

REGION_PATTERN: Final = r"^[a-z]{2,8}(-[a-z]+){1,3}-[0-9]{1,2}$"

StoreField = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


def _check_address(text: str) -> str:
    parts = urlsplit(text)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.path not in {"", "/"}
        or "@" in parts.netloc
        or "?" in text
        or "#" in text
        or re.search(r"\s", text)
    ):
        raise ValueError("an address is https://, a host and maybe a port, and nothing else")
    if not _has_port(parts):
        raise ValueError("a port is a number from 1 to 65535")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("over http everybody on the way reads the secrets: write https")
    return text.rstrip("/")


def _has_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_opener(reference: SecretRef) -> SecretRef:
    if any(each.scheme in _NEEDS_A_STORE for each in reference.chain()):
        raise ValueError("what opens a store cannot be kept in a store")
    return reference


def _check_timeout(value: timedelta) -> timedelta:
    if value > _LONGEST:
        raise ValueError("a store that takes longer than 60s holds up every start")
    return value


AddressField = Annotated[
    str,
    AfterValidator(_check_address),
    WithJsonSchema({"type": "string", "pattern": "^https?://[^/@?#]+/?$"}),
]
OpenerField = Annotated[SecretRefField, AfterValidator(_check_opener)]
TimeoutField = Annotated[PositiveDuration, AfterValidator(_check_timeout)]
FileField = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class AppRole(Model):
    """A login that a machine has.

    Attributes:
        role_id: Its public half.
        secret_id: Where its secret half is kept.
        mount: Where the method is mounted.
    """

    role_id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    secret_id: OpenerField
    mount: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")] = "approle"


class VaultAccount(Model):
    """A Vault or OpenBao server, and the login there; `token` or `approle`.

    Attributes:
        kind: `vault`.
        address: The server; `http` on this machine only. No proxy and no redirect is followed.
        token: Where a token is kept; read anew for each request.
        approle: A login instead of a token.
        namespace: The namespace, if the server has any.
        ca: A file with the authorities that its certificate is checked against, inside the
            project unless absolute; those that Python brings (certifi) without it.
        timeout: How long it may take to answer, at most 60s.
    """

    kind: Literal["vault"]
    address: AddressField
    token: OpenerField | None = None
    approle: AppRole | None = None
    namespace: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_/-]{1,256}$")] | None = None
    ca: FileField | None = None
    timeout: TimeoutField = timedelta(seconds=5)

    @model_validator(mode="after")
    def _has_one_login(self) -> Self:
        if (self.token is None) == (self.approle is None):
            raise ValueError("needs a login: either `token` or `approle`")
        return self


class AwsAccount(Model):
    """AWS Secrets Manager in one region.

    Attributes:
        kind: `aws`.
        region: The region, such as `eu-central-1`.
        endpoint: Another address than the region's own; `http` on this machine only. None that
            variables or AWS's configuration files name is used, and no proxy.
        profile: A profile of the AWS configuration files. Without it and without `access_key`,
            AWS's own order is followed: environment, files, the machine's role.
        access_key: Where the id of an access key is kept.
        secret_key: Where the access key itself is kept.
        session_token: Where a session token is kept, if the key is a temporary one.
        timeout: How long it may take to answer, at most 60s.
    """

    kind: Literal["aws"]
    region: Annotated[str, StringConstraints(pattern=REGION_PATTERN)]
    endpoint: AddressField | None = None
    profile: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.@+-]{1,128}$")] | None = None
    access_key: OpenerField | None = None
    secret_key: OpenerField | None = None
    session_token: OpenerField | None = None
    timeout: TimeoutField = timedelta(seconds=5)

    @model_validator(mode="after")
    def _has_one_login(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("`access_key` and `secret_key` go together")
        if self.session_token and not self.access_key:
            raise ValueError("`session_token` goes with `access_key` and `secret_key`")
        if self.profile and self.access_key:
            raise ValueError("either `profile` or `access_key`")
        return self


Account: TypeAlias = Annotated[VaultAccount | AwsAccount, Field(discriminator="kind")]

# arn:aws:secretsmanager:REGION:...
_REGION_PART: Final = 3


def region_of(path: str) -> str:
    """Tell the region of an ARN, empty if it is none."""
    parts = path.split(":")
    return parts[_REGION_PART] if parts[0] == "arn" and len(parts) > _REGION_PART else ""


def aws_regions(accounts: Mapping[str, Account]) -> Mapping[str, str]:
    """Tell the regions of all stores of kind `aws`, by name."""
    return {
        name: account.region
        for name, account in accounts.items()
        if isinstance(account, AwsAccount)
    }


def aws_store(path: str, regions: Mapping[str, str]) -> str | None:
    """Tell which store an `aws-sm:` reference means, which names none.

    Args:
        path: A secret's name or ARN.
        regions: The regions of the stores of kind `aws`, by their names.

    Returns:
        The only one, or of several that of the ARN's region, or the one called `default`; None if
        that leaves none, or more than one.
    """
    wanted = region_of(path)
    fitting = [name for name, region in regions.items() if not wanted or region == wanted]
    if DEFAULT_STORE in fitting:
        return DEFAULT_STORE
    return fitting[0] if len(fitting) == 1 else None
