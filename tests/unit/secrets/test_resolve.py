"""References to values: what is taken, what is refused, and that no value is ever told."""

import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.errors import SecretError, SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.names import SecretName
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.resolve import SecretResolver

VALUE = "canary-value"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project with a state and one secret file in it."""
    (tmp_path / ".agents").mkdir(mode=0o700)
    write(tmp_path / ".agents/token", VALUE + "\n")
    return tmp_path


def write(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    """Write a file of a mode."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


Resolve = Callable[..., str]


@pytest.fixture
def resolve(root: Path) -> Resolve:
    """Resolve one reference."""

    def run(text: str, environment: Mapping[str, str] | None = None) -> str:
        resolver = SecretResolver(
            root,
            root / ".agents",
            {name: SecretStr(value) for name, value in (environment or {}).items()},
        )
        return resolver.resolve(SecretRef.parse(text)).get_secret_value()

    return run


def failure(resolve: Resolve, text: str, environment: Mapping[str, str] | None = None) -> str:
    """Resolve in vain; return kind, message and hint, and make sure that no value is in them."""
    with pytest.raises(SecretError) as caught:
        resolve(text, environment)
    error = caught.value
    chain: BaseException | None = error
    while chain is not None:
        assert VALUE not in f"{chain!r} {chain} {vars(chain)}"
        chain = chain.__cause__ or chain.__context__
    assert VALUE not in "".join(traceback.format_exception(error))
    return f"{error.code}: {error} | {error.hint}"


def test_files(root: Path, resolve: Resolve) -> None:
    """A file is its whole text without one newline at its end."""
    assert resolve("file:{state}/token") == VALUE
    assert resolve(f"file:{root}/.agents/token") == VALUE
    write(root / ".agents/token", f"{VALUE}\n\n")
    assert resolve("file:{state}/token") == VALUE + "\n"
    write(root / ".agents/token", f"{VALUE}\r\n")
    assert resolve("file:{state}/token") == VALUE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622, 0o601, 0o644])
def test_a_file_that_others_can_read(root: Path, resolve: Resolve, mode: int) -> None:
    """Any bit for group or others is refused, with the file, its mode and the remedy."""
    (root / ".agents/token").chmod(mode)
    assert failure(resolve, "file:{state}/token") == (
        f"secret.store: {root}/.agents/token has mode 0{mode:o}: others can read or write it | "
        f"chmod 600 {root}/.agents/token"
    )


def test_a_file_that_others_can_replace(root: Path, resolve: Resolve) -> None:
    """A directory that others may write is refused, except where nobody can replace a file."""
    (root / ".agents").chmod(0o777)
    assert failure(resolve, "file:{state}/token") == (
        f"secret.store: {root}/.agents/token could be replaced: everybody may write its directory "
        f"| chmod go-w {root}/.agents"
    )
    (root / ".agents").chmod(0o1777)
    assert resolve("file:{state}/token") == VALUE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else(root: Path, resolve: Resolve) -> None:
    """A file that another user owns could be changed by that user."""
    os.chown(root / ".agents/token", 54_321, -1)
    assert "belongs to user 54321" in failure(resolve, "file:{state}/token")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give files away")
def test_a_directory_that_a_container_keeps(root: Path, resolve: Resolve) -> None:
    """A file there may be its directory's owner's, if that is said; and nobody else's."""
    kept = root / ".agents" / "wallet"
    kept.mkdir(mode=0o700)
    token = kept / "token"
    _ = token.write_text(VALUE)
    token.chmod(0o600)
    for path in (kept, token):
        os.chown(path, 54321, 54321)
    assert "belongs to user 54321" in failure(resolve, "file:{state}/wallet/token")
    assert resolve("file:{state}/wallet/token?kept=true") == VALUE
    other = kept / "second name"
    os.link(token, other)
    assert "belongs to user 54321" in failure(resolve, "file:{state}/wallet/token?kept=true")
    other.unlink()
    os.chown(token, 54322, 54321)
    assert "belongs to user 54322" in failure(resolve, "file:{state}/wallet/token?kept=true")
    os.chown(token, 54321, 54321)
    kept.chmod(0o770)
    assert "could be replaced" in failure(resolve, "file:{state}/wallet/token?kept=true")
    token.unlink()
    token.symlink_to("/etc/shadow")
    assert "is a symbolic link" in failure(resolve, "file:{state}/wallet/token?kept=true")


def test_files_that_are_none(root: Path, resolve: Resolve) -> None:
    """Links, directories, pipes, missing files and endless ones are refused, and none hangs."""
    state = root / ".agents"
    (state / "link").symlink_to(state / "token")
    (state / "folder").mkdir()
    os.mkfifo(state / "pipe", 0o600)
    write(state / "huge", "x" * 65_537)
    write(state / "binary", VALUE.encode() + b"\xff")
    expected = {
        "link": "secret.store: PATH is a symbolic link | "
        "Name the file itself, or write file:PATH?follow=true.",
        "folder": "secret.store: PATH cannot be read: is a directory | None",
        "pipe": "secret.store: PATH cannot be read: not a regular file | None",
        "missing": "secret.not_found: PATH does not exist | None",
        "token/below": "secret.not_found: PATH does not exist | None",
        "huge": "secret.store: PATH is too large for a secret | At most 64 KiB.",
        "binary": "secret.store: PATH is no UTF-8 text | None",
    }
    for name, message in expected.items():
        found = failure(resolve, f"file:{{state}}/{name}")
        assert found.replace(str(state / name), "PATH") == message


def test_values_that_are_none(root: Path, resolve: Resolve) -> None:
    """Empty values, NUL characters and short values are refused in every store."""
    for content, message in (
        ("", "secret.not_found: file:{state}/token is empty | None"),
        ("\n", "secret.not_found: file:{state}/token is empty | None"),
        (f"{VALUE}\0", "secret.store: file:{state}/token holds a NUL character | None"),
        (
            "hunter2",
            "secret.store: file:{state}/token is too short for a secret | At least 8 characters.",
        ),
    ):
        write(root / ".agents/token", content)
        assert (
            failure(resolve, "file:{state}/token").replace(f"{root}/.agents", "{state}") == message
        )
    assert "env:A is empty" in failure(resolve, "env:A", {"A": ""})


def test_the_environment_comes_before_dotenv(root: Path, resolve: Resolve) -> None:
    """A variable is looked for in the environment, then in .env, as it stands there."""
    assert "A is set neither in the environment nor in" in failure(resolve, "env:A")
    write(root / ".env", f"# note\nexport A='{VALUE}$B${{C}}'\nB=\nC\n")
    assert resolve("env:A") == f"{VALUE}$B${{C}}"
    assert resolve("env:A", {"A": "from-outside"}) == "from-outside"
    assert failure(resolve, "env:A", {"A": ""}).startswith("secret.not_found: env:A is empty")
    for name in ("B", "C"):
        assert failure(resolve, f"env:{name}").startswith(f"secret.not_found: env:{name} is empty")
    assert failure(resolve, "env:D").endswith(
        f"Add a line D=... to {root}/.env, which needs mode 0600."
    )


def test_a_dotenv_that_others_can_read(root: Path, resolve: Resolve) -> None:
    """.env is held to the rules of any file with secrets; a variable outside needs it not."""
    write(root / ".env", f"A={VALUE}\n", 0o644)
    assert failure(resolve, "env:A").endswith(f"chmod 600 {root}/.env")
    assert resolve("env:A", {"A": VALUE}) == VALUE


def test_a_dotenv_with_a_broken_line(root: Path, resolve: Resolve) -> None:
    """A line that cannot be read is told by its number."""
    write(root / ".env", f"A={VALUE}\nB='{VALUE}\n")
    assert failure(resolve, "env:A").startswith(f"secret.store: {root}/.env: line 2 cannot be read")


def test_a_dotenv_that_is_a_link(root: Path, resolve: Resolve) -> None:
    """Links are for `file:` alone, and only its hint speaks of following them."""
    write(root / "prod.env", f"A={VALUE}\n")
    (root / ".env").symlink_to("prod.env")
    assert failure(resolve, "env:A").endswith(".env is a symbolic link | Name the file itself.")


def test_other_dotenv_files(root: Path, resolve: Resolve) -> None:
    """`dotenv:` names the file and the variable."""
    write(root / "prod.env", f"A={VALUE}\n")
    assert resolve("dotenv:{project}/prod.env#A") == VALUE
    assert failure(resolve, f"dotenv:{root}/prod.env#B") == (
        f"secret.not_found: {root}/prod.env does not set B | None"
    )
    assert failure(resolve, f"dotenv:{root}/no.env#B").startswith("secret.not_found")


def references(**texts: str) -> dict[SecretName, SecretRef]:
    """Make the secrets of a role."""
    return {SecretName(name): SecretRef.parse(text) for name, text in texts.items()}


def test_all_secrets_of_a_role_are_resolved_together(root: Path) -> None:
    """Every missing one is told at once; a store that cannot be used weighs more."""
    resolver = SecretResolver(root, root / ".agents", {"A": SecretStr(VALUE)})
    good = resolver.resolve_all(references(A="env:A", T="file:{state}/token"))
    assert good == {"A": SecretStr(VALUE), "T": SecretStr(VALUE)}
    assert VALUE not in repr(good)
    with pytest.raises(SecretNotFoundError) as missing:
        resolver.resolve_all(references(A="env:A", B="env:B", C="file:/nowhere/c"))
    assert [line[:2] for line in str(missing.value).splitlines()] == ["B:", "C:"]
    (root / ".agents/token").chmod(0o644)
    with pytest.raises(SecretStoreUnavailableError) as both:
        resolver.resolve_all(references(B="env:B", T="file:{state}/token"))
    assert [line[:2] for line in str(both.value).splitlines()] == ["B:", "T:"]
    assert VALUE not in str(both.value)


def test_a_changed_value_is_seen(root: Path, resolve: Resolve) -> None:
    """Nothing is remembered from one resolution to the next."""
    assert resolve("file:{state}/token") == VALUE
    write(root / ".agents/token", "another-value")
    assert resolve("file:{state}/token") == "another-value"
