"""What a store of secrets is asked; every store is one small module beside this one.

Only the resolver hands out what a store answers, after checks that are the same for all stores.
"""

from typing import Protocol

from orchestrator.model.secret import SecretRef


class SecretStore(Protocol):
    """Where secrets are kept."""

    def read(self, reference: SecretRef) -> str:
        """Return the text that is kept under a reference, as it is.

        Args:
            reference: A reference of this store's scheme, with an absolute path if it has one.

        Raises:
            SecretNotFoundError: Nothing is kept under it.
            SecretStoreUnavailableError: The store cannot be read, or must not be trusted.
        """
        ...
