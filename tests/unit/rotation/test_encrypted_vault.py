"""The project's own vault: real files, and every way in which they can be wrong."""

import base64
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.names import RoleName
from orchestrator.rotation.ports import Credential
from orchestrator.rotation.vaults.encrypted import EncryptedVault, load_key, parse_key

ROLE = RoleName("treasury")
VERSION = "bm-treasury-0123456789ab-1"
CANARY = "canary-8f2e71c0d4"
CREDENTIAL = Credential({"username": SecretStr("ann"), "password": SecretStr(CANARY)})


@pytest.fixture
def vault(tmp_path: Path) -> EncryptedVault:
    """Give a vault with a key of its own."""
    key = secrets.token_bytes(32)
    return EncryptedVault(tmp_path / "vault", lambda: key)


def texts(credential: Credential) -> dict[str, str]:
    """Tell a credential's texts."""
    return {name: text.get_secret_value() for name, text in credential.fields.items()}


def told(caught: pytest.ExceptionInfo[BaseException]) -> str:
    """Tell everything that an error carries along, causes included."""
    parts: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        parts += [repr(error), str(error), str(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


async def test_what_is_put_comes_back_and_lies_encrypted(
    vault: EncryptedVault, tmp_path: Path
) -> None:
    """A credential survives, in a private file that shows nothing of it; putting twice replaces."""
    await vault.put(ROLE, VERSION, CREDENTIAL)
    await vault.put(ROLE, VERSION, CREDENTIAL)
    await vault.promote(ROLE, VERSION)
    assert texts(await vault.get(ROLE, VERSION)) == texts(CREDENTIAL)
    (path,) = [each for each in (tmp_path / "vault").rglob("*") if each.is_file()]
    assert path == tmp_path / "vault" / ROLE / VERSION
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert CANARY.encode() not in path.read_bytes()
    assert CANARY not in repr(CREDENTIAL)


async def test_what_is_dropped_is_gone(vault: EncryptedVault, tmp_path: Path) -> None:
    """A dropped version is not found again; dropping it twice, or one that never was, is fine."""
    await vault.put(ROLE, VERSION, CREDENTIAL)
    await vault.drop(ROLE, VERSION)
    await vault.drop(ROLE, VERSION)
    await vault.drop(RoleName("nobody"), VERSION)
    with pytest.raises(SecretNotFoundError):
        _ = await vault.get(ROLE, VERSION)
    assert not [each for each in (tmp_path / "vault").rglob("*") if each.is_file()]


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "one bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "cut off": lambda content: content[:-5],
    "only the head": lambda content: content[:25],
    "empty": lambda _: b"",
    "something else": lambda _: b"hello",
    "far too long": lambda content: content + bytes(2 * 1024 * 1024),
}


@pytest.mark.parametrize("how", SPOILT)
async def test_a_spoilt_file_is_told_and_kept(
    vault: EncryptedVault, tmp_path: Path, how: str
) -> None:
    """A file that was changed or cut off is a clear error, and stays where it is."""
    await vault.put(ROLE, VERSION, CREDENTIAL)
    path = tmp_path / "vault" / ROLE / VERSION
    spoilt = SPOILT[how](path.read_bytes())
    path.write_bytes(spoilt)
    with pytest.raises(SecretStoreUnavailableError) as caught:
        _ = await vault.get(ROLE, VERSION)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == spoilt
    assert CANARY not in told(caught)


async def test_another_key_opens_nothing_and_deletes_nothing(
    vault: EncryptedVault, tmp_path: Path
) -> None:
    """With a wrong key the error says so; with the right one the credential is still there."""
    await vault.put(ROLE, VERSION, CREDENTIAL)
    other = EncryptedVault(tmp_path / "vault", lambda: secrets.token_bytes(32))
    with pytest.raises(SecretStoreUnavailableError, match="another key") as caught:
        _ = await other.get(ROLE, VERSION)
    assert CANARY not in told(caught)
    assert texts(await vault.get(ROLE, VERSION)) == texts(CREDENTIAL)


@pytest.mark.parametrize("place", [("executor", VERSION), (ROLE, "bm-treasury-0123456789ab-2")])
async def test_a_file_is_of_use_in_its_own_place_only(
    vault: EncryptedVault, tmp_path: Path, place: tuple[str, str]
) -> None:
    """A file that is moved to another role or version does not open there."""
    await vault.put(ROLE, VERSION, CREDENTIAL)
    target = tmp_path / "vault" / place[0] / place[1]
    target.parent.mkdir(exist_ok=True)
    _ = (tmp_path / "vault" / ROLE / VERSION).rename(target)
    with pytest.raises(SecretStoreUnavailableError, match="does not open"):
        _ = await vault.get(RoleName(place[0]), place[1])


@pytest.mark.parametrize("place", [("../keys", "a"), (ROLE, "../../x"), (ROLE, ""), (ROLE, "a/b")])
async def test_no_name_leads_elsewhere(vault: EncryptedVault, place: tuple[str, str]) -> None:
    """Roles and versions that are no plain names are refused."""
    for ask in (vault.get, vault.drop):
        with pytest.raises(SecretStoreUnavailableError):
            _ = await ask(RoleName(place[0]), place[1])


async def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Where the directory cannot be made the error names it, and no value."""
    (tmp_path / "vault").write_text("a file")
    vault = EncryptedVault(tmp_path / "vault", lambda: bytes(32))
    with pytest.raises(SecretStoreUnavailableError, match="cannot be written") as caught:
        await vault.put(ROLE, VERSION, CREDENTIAL)
    assert CANARY not in told(caught)


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """The key is made when there is none, private, and read from then on."""
    path = tmp_path / "keys" / "vault.key"
    key = load_key(path, tmp_path / "vault")
    assert len(key) == 32
    assert load_key(path, tmp_path / "vault") == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_lost_key_is_not_made_anew_over_what_it_opens(tmp_path: Path) -> None:
    """A second key would hide that the first one is gone: it is an error, and none is made."""
    path = tmp_path / "keys" / "vault.key"
    key = load_key(path, tmp_path / "vault")
    await EncryptedVault(tmp_path / "vault", lambda: key).put(ROLE, VERSION, CREDENTIAL)
    path.unlink()
    with pytest.raises(SecretStoreUnavailableError, match="is gone"):
        _ = load_key(path, tmp_path / "vault")
    assert not path.exists()


def test_a_key_that_is_none_is_told(tmp_path: Path) -> None:
    """A key of another length, one that others may read, and a link in its place are refused."""
    path = tmp_path / "vault.key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(SecretStoreUnavailableError, match="no key of 32 bytes"):
        _ = load_key(path, tmp_path / "vault")
    path.write_bytes(bytes(32))
    path.chmod(0o644)
    with pytest.raises(SecretStoreUnavailableError, match="others may have read"):
        _ = load_key(path, tmp_path / "vault")
    path.chmod(0o600)
    link = tmp_path / "link.key"
    link.symlink_to(path)
    with pytest.raises(SecretStoreUnavailableError, match="cannot be read"):
        _ = load_key(link, tmp_path / "vault")


def test_a_key_from_elsewhere() -> None:
    """A key is read from hexadecimal digits or Base64; anything else is refused, unrepeated."""
    key = secrets.token_bytes(32)
    assert parse_key(SecretStr(key.hex() + "\n")) == key
    assert parse_key(SecretStr(base64.b64encode(key).decode())) == key
    for text in (CANARY, "", "00" * 31, "zz" * 32):
        with pytest.raises(SecretStoreUnavailableError) as caught:
            _ = parse_key(SecretStr(text))
        assert CANARY not in told(caught)
