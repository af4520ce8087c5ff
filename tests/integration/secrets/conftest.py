"""A project whose references are resolved by real stores, and the hunt for values that got out."""

import base64
import json
import os
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, cast, final

import pyrage
import pytest
import structlog
from pydantic import SecretStr, TypeAdapter

from orchestrator.errors import SecretError
from orchestrator.model.names import SecretName
from orchestrator.model.reference import SecretRefField
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.base import Secret
from orchestrator.secrets.fingerprint import Fingerprints
from orchestrator.secrets.resolve import SecretResolver

# Every value in these tests holds this word, and no reference, file name or variable does.
MARK: Final = "canary"
_REFERENCE: Final[TypeAdapter[SecretRef]] = TypeAdapter(SecretRefField)
_RENDER: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def _needles() -> frozenset[str]:
    raw = MARK.encode()
    inside = [
        base64.b64encode(b"\0" * shift + raw).decode()[-(-shift * 8 // 6) :][
            : (len(raw) * 8) // 6 - 1
        ]
        for shift in range(3)
    ]
    percent = "".join(f"%{byte:02x}" for byte in raw)
    return frozenset({MARK, MARK[::-1], raw.hex(), percent, *inside})


_NEEDLES: Final = _needles()


def hunt(text: str) -> set[str]:
    """Find what is left of a value in a text: plain, reversed, hex, Base64, URL."""
    lower = text.lower()
    return {each for each in _NEEDLES if each in text or each in lower}


def everything_about(error: BaseException) -> str:
    """Write down all that a log or a person could get to see of an error."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        link = link.__cause__ or link.__context__
    rendered = _RENDER(None, "error", {"exc_info": (type(error), error, error.__traceback__)})
    return "\n".join(
        [
            *(f"{each!r} {each} {vars(each)} {each.args}" for each in seen),
            *traceback.format_exception(error),
            json.dumps(rendered, default=repr),
        ]
    )


@final
class Project:
    """A project directory and what its references resolve to."""

    def __init__(self, root: Path) -> None:
        """Make the state in a directory."""
        self.root = root
        self.state = root / ".agents"
        self.state.mkdir(mode=0o700)

    def write(self, name: str, content: str | bytes, mode: int = 0o600) -> Path:
        """Write a file of a mode into the project."""
        path = self.root / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def resolver(self, environment: Mapping[str, str] | None = None) -> SecretResolver:
        """Make a resolver with an environment."""
        given = {name: SecretStr(value) for name, value in (environment or {}).items()}
        marks = Fingerprints(self.state / "keys/fingerprint.key")
        return SecretResolver(self.root, self.state, given, fingerprints=marks)

    def look_up(self, data: object, environment: Mapping[str, str] | None = None) -> Secret:
        """Resolve a reference as it stands in a file."""
        return self.resolver(environment).look_up(_REFERENCE.validate_python(data))

    def value(self, data: object, environment: Mapping[str, str] | None = None) -> str:
        """Resolve a reference, and return the value itself."""
        return self.look_up(data, environment).value.get_secret_value()

    def values(
        self, table: Mapping[str, object], issued: Mapping[str, SecretStr] | None = None
    ) -> dict[str, str]:
        """Resolve all references of one role."""
        secrets = {
            SecretName(name): _REFERENCE.validate_python(data) for name, data in table.items()
        }
        found = self.resolver().resolve_all(secrets, issued)
        return {str(name): value.get_secret_value() for name, value in found.items()}

    def failure(self, data: object, environment: Mapping[str, str] | None = None) -> str:
        """Resolve in vain; return code, message and hint, and make sure that no value is told."""
        with pytest.raises(SecretError) as caught:
            _ = self.look_up(data, environment)
        assert hunt(everything_about(caught.value)) == set()
        return f"{caught.value.code}: {caught.value} | {caught.value.hint}"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return an empty project."""
    return Project(tmp_path)


class Need(Protocol):
    """Finds a program, or skips the test."""

    def __call__(self, program: str) -> str:
        """Return its path."""
        ...


@pytest.fixture
def need() -> Need:
    """Skip where a program is missing, and fail where none may be."""

    def find(program: str) -> str:
        found = shutil.which(program)
        if found is None:
            if os.environ.get("BANDMASTER_TEST_ALL"):
                pytest.fail(f"scripts/dev-services has not installed {program}")
            pytest.skip(f"{program} is not installed (scripts/dev-services)")
        return found

    return find


@pytest.fixture
def hunted() -> Callable[[str], set[str]]:
    """Return the hunt itself."""
    return hunt


@pytest.fixture
def left_of() -> Callable[[BaseException], set[str]]:
    """Return the hunt through everything about an error."""
    return lambda error: hunt(everything_about(error))


class Identity(Protocol):
    """A key of age."""

    def to_public(self) -> object:
        """Return its public half."""
        ...


class _Identities(Protocol):
    def generate(self) -> Identity: ...


class _Recipients(Protocol):
    def from_str(self, text: str) -> object: ...


class _Keys(Protocol):
    @property
    def Identity(self) -> _Identities: ...  # noqa: N802  the library's name
    @property
    def Recipient(self) -> _Recipients: ...  # noqa: N802  the same


class Age(Protocol):
    """What is used of pyrage, which has no types."""

    @property
    def x25519(self) -> _Keys:
        """Keys of its own."""
        ...

    @property
    def ssh(self) -> _Keys:
        """Keys of SSH."""
        ...

    def encrypt(
        self, plaintext: bytes, recipients: Sequence[object], *, armored: bool = False
    ) -> bytes:
        """Encrypt for somebody."""
        ...


@pytest.fixture
def age() -> Age:
    """Return the library."""
    return cast("Age", cast("object", pyrage))
