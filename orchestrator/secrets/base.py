"""What a store of secrets is asked; every store is one small module beside this one.

Only the resolver hands out what a store answers, after checks that are the same for all stores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn, Protocol, TypeAlias, final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretStoreUnavailableError
from orchestrator.model.secret import SecretRef


@final
@dataclass(frozen=True, slots=True)
class Secret:
    """What a store keeps under a reference; its text shows the value nowhere.

    Attributes:
        value: The value.
        version_id: The store's name of this version, if it has versions.
        lease_id: The store's name of the lease that the value lives by, if it does.
        expires_at: When the value ends by itself; None if it does not, or nobody knows.
        fingerprint: Eight hexadecimal digits that are the same for the same value on this machine;
            empty until the resolver has set it.
    """

    value: SecretStr
    version_id: str = ""
    lease_id: str = ""
    expires_at: datetime | None = None
    fingerprint: str = ""

    @override
    def __reduce_ex__(self, _: object, /) -> NoReturn:
        raise TypeError("a secret is not written anywhere")


# How a store resolves the reference inside a reference.
LookUp: TypeAlias = Callable[[SecretRef], Secret]


class SecretStore(Protocol):
    """Where secrets are kept."""

    def read(self, reference: SecretRef) -> Secret:
        """Return what is kept under a reference, as it is.

        May block, but has to end by itself: the resolver waits ten seconds and asks no more than
        a few times at once what does not answer.

        Args:
            reference: A reference of this store's scheme, with an absolute path if it has one.

        Raises:
            SecretNotFoundError: Nothing is kept under it.
            SecretStoreUnavailableError: The store cannot be read, or must not be trusted.
        """
        ...


def missing_library(extra: str) -> SecretStoreUnavailableError:
    """Say which extra brings a library that is not installed."""
    return SecretStoreUnavailableError(
        f"the library for {extra} is not installed", hint=f"pip install 'bandmaster[{extra}]'"
    )
