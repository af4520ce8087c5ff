"""Values in memory, their marks, and how stores are asked."""

import copy
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr, TypeAdapter

from orchestrator.errors import (
    SecretNotFoundError,
    SecretStoreUnavailableError,
    SettingsError,
    StateCorruptError,
)
from orchestrator.secrets.asking import Question, ask_all
from orchestrator.secrets.base import Secret
from orchestrator.secrets.fingerprint import Fingerprints

VALUE = "canary-value"
SECRET = Secret(SecretStr(VALUE), "v1", "lease-1", datetime(2026, 12, 1, tzinfo=UTC), "0badcafe")
LONG = 60.0


def test_a_secret_shows_no_value() -> None:
    """Neither text nor JSON holds the value, and the rest is there to be read."""
    for text in (repr(SECRET), str(SECRET), f"{SECRET}", TypeAdapter(Secret).dump_json(SECRET)):
        assert VALUE not in str(text)
    assert "lease-1" in repr(SECRET)
    assert SECRET.value.get_secret_value() == VALUE


def test_a_secret_is_not_written_anywhere() -> None:
    """Pickling, copying and JSON are refused, without the value in the error."""
    for write in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps, orjson.dumps):
        with pytest.raises(TypeError) as caught:
            write(SECRET)
        assert VALUE not in str(caught.value)
    assert replace(SECRET, fingerprint="").value == SECRET.value


def test_fingerprints(tmp_path: Path) -> None:
    """Equal values have equal marks, by a key of the project that is made once and private."""
    path = tmp_path / "keys/fingerprint.key"
    mark = Fingerprints(path).of(SecretStr(VALUE))
    assert len(mark) == 8
    assert int(mark, 16) >= 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]
    assert Fingerprints(path).of(SecretStr(VALUE)) == mark
    assert Fingerprints(path).of(SecretStr(VALUE + "x")) != mark
    assert Fingerprints(tmp_path / "other/key").of(SecretStr(VALUE)) != mark


def test_processes_agree_on_one_key(tmp_path: Path) -> None:
    """Whoever comes second takes the key of the first."""
    path = tmp_path / "keys/fingerprint.key"
    with ThreadPoolExecutor(8) as pool:
        marks = [pool.submit(Fingerprints(path).of, SecretStr(VALUE)) for _ in range(32)]
    assert len({mark.result() for mark in marks}) == 1


def test_a_damaged_fingerprint_key(tmp_path: Path) -> None:
    """A key that is none is told, not replaced."""
    path = tmp_path / "key"
    path.write_bytes(b"short")
    with pytest.raises(StateCorruptError, match="no key of 32 bytes"):
        Fingerprints(path).of(SecretStr(VALUE))
    path.unlink()
    path.mkdir()
    with pytest.raises(StateCorruptError, match="cannot be used"):
        Fingerprints(path).of(SecretStr(VALUE))


def question(ask: object, *, store: str = "x", patience: float = LONG) -> Question:
    """Make a question from a function, an error or an answer."""

    def answer() -> Secret:
        if isinstance(ask, Exception):
            raise ask
        if callable(ask):
            ask()
        return SECRET

    return Question("x:NAME", store, patience, answer)


def test_stores_are_asked_at_the_same_time() -> None:
    """Two stores that wait for each other both answer."""
    meeting = threading.Barrier(2, timeout=LONG)
    assert ask_all([question(meeting.wait), question(meeting.wait)]) == [SECRET, SECRET]
    assert ask_all([]) == []


def test_errors_of_stores() -> None:
    """Each error comes back in its place, as one of ours, without cause, context or traceback."""
    chained = SecretNotFoundError("x:NAME is not there", hint="Look elsewhere.")
    chained.__cause__ = ValueError(VALUE)
    results = ask_all(
        [
            question(chained),
            question(SecretStoreUnavailableError("closed")),
            question(SettingsError("no such place", hint="h")),
            question(RuntimeError(VALUE)),
            question(None),
        ]
    )
    told = [(type(each).__name__, str(each)) for each in results[:4]]
    assert told == [
        ("SecretNotFoundError", "x:NAME is not there"),
        ("SecretStoreUnavailableError", "closed"),
        ("SecretStoreUnavailableError", "no such place"),
        (
            "SecretStoreUnavailableError",
            "x:NAME: its store failed unexpectedly (RuntimeError)",
        ),
    ]
    assert results[4] is SECRET
    for error in results[:4]:
        assert isinstance(error, Exception)
        assert (error.__cause__, error.__context__, error.__traceback__) == (None, None, None)


def test_a_store_that_hangs_holds_up_nobody_else() -> None:
    """What hangs is given up, and its store alone is not asked again before it answers."""
    gate = threading.Event()
    begun = threading.Semaphore(0)

    def hang() -> None:
        begun.release()
        assert gate.wait(LONG)

    hanging = [question(hang, store="slow", patience=0.05) for _ in range(4)]
    *late, other = ask_all([*hanging, question(None, store="quick")])
    assert other is SECRET
    assert {str(each) for each in late} == {"x:NAME: no answer within 0.05 s"}
    [refused] = ask_all([question(None, store="slow")])
    assert str(refused) == "x:NAME: the store has not answered for some time"
    assert ask_all([question(None, store="quick")]) == [SECRET]
    gate.set()
    workers = [each for each in threading.enumerate() if each.name == "secret of slow"]
    for worker in workers:
        worker.join(LONG)
    assert ask_all([question(None, store="slow")]) == [SECRET]


def test_hanging_stores_do_not_keep_the_process() -> None:
    """A thread that waits for a store ends with the process."""
    gate = threading.Event()
    _ = ask_all([question(gate.wait, store="held", patience=0.01)])
    [worker] = [each for each in threading.enumerate() if each.name == "secret of held"]
    assert worker.daemon
    gate.set()
    worker.join(LONG)
