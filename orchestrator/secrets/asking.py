"""Asks stores in threads, so that one that hangs holds up nobody but those who need it.

A thread cannot be ended from outside: one whose time is over is left alone, and a store that has
left several unanswered is not asked again before it answers.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass
from typing import Final, TypeAlias

from orchestrator.errors import (
    AgentsError,
    SecretError,
    SecretNotFoundError,
    SecretStoreUnavailableError,
)
from orchestrator.secrets.base import Secret

_MOST_LATE: Final = 4

Result: TypeAlias = Secret | SecretError


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a store.

    Attributes:
        name: What errors call it; nothing secret.
        store: The store, by a name that it shares with nobody.
        patience: How long to wait for it, in seconds.
        ask: Gives the answer; may block.
    """

    name: str
    store: str
    patience: float
    ask: Callable[[], Secret]


def ask_all(questions: Sequence[Question]) -> list[Result]:
    """Ask all at once, and wait for each as long as its patience lasts.

    Returns:
        An answer or an error for each, in their order. No error carries another one, whose text
        or frames could hold a value.
    """
    begun = time.monotonic()
    answers = [(question, _begin(question)) for question in questions]
    return [_wait(question, answer, begun) for question, answer in answers]


# Threads whose time was over before they answered, by store.
_late: Final[Counter[str]] = Counter()
_lock: Final = threading.Lock()


def _begin(question: Question) -> "Future[Result]":
    answer: Future[Result] = Future()
    with _lock:
        refused = _late[question.store] >= _MOST_LATE
    if refused:
        answer.set_result(
            SecretStoreUnavailableError(
                f"{question.name}: the store has not answered for some time",
                hint="It is asked again as soon as it answers what it was asked before.",
            )
        )
        return answer

    def work() -> None:
        result = _ask(question)
        with _lock:
            if answer.cancelled():
                _late[question.store] -= 1
            else:
                answer.set_result(result)

    # A thread of a pool would keep the process from ending.
    threading.Thread(target=work, name=f"secret of {question.store}", daemon=True).start()
    return answer


def _wait(question: Question, answer: "Future[Result]", begun: float) -> Result:
    try:
        return answer.result(max(0.0, begun + question.patience - time.monotonic()))
    except LateError:
        pass
    with _lock:
        if answer.cancel():
            _late[question.store] += 1
    if not answer.cancelled():
        return answer.result()
    return SecretStoreUnavailableError(
        f"{question.name}: no answer within {question.patience:g} s",
        hint="Is the store up, and is it waiting for somebody to unlock it?",
    )


def _ask(question: Question) -> Result:
    try:
        return question.ask()
    except SecretNotFoundError as error:
        return SecretNotFoundError(error.message, hint=error.hint)
    except AgentsError as error:
        return SecretStoreUnavailableError(error.message, hint=error.hint)
    except Exception as error:  # noqa: BLE001  a library's error, whose text could hold the value
        kind = type(error).__name__
    return SecretStoreUnavailableError(f"{question.name}: its store failed unexpectedly ({kind})")
