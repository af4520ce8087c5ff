"""Asks a program something: JSON on its stdin, JSON from its stdout, in bounded time and size."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, final

from pydantic import SecretStr

from orchestrator.errors import ProtocolError
from orchestrator.model.base import JsonObject
from orchestrator.model.names import SecretName
from orchestrator.model.secret import SecretRef
from orchestrator.protocol import jsonrpc
from orchestrator.rotation.running import ProgramError, check, run

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Source: sysexits.h, EX_TEMPFAIL.
NOTHING_DONE: Final = 75

Resolve = Callable[[Mapping[SecretName, SecretRef]], Awaitable[Mapping[SecretName, SecretStr]]]


@final
@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the programs of an issuer run with.

    Attributes:
        fill: Puts places into words: `{python}`, `{project}` and `{state}`.
        env: Plain variables beside a short baseline.
        secrets: Variables whose values are resolved for each run.
        resolve: Resolves them.
        timeout: How long a run may take.
    """

    fill: Callable[[str], str]
    env: Mapping[SecretName, str]
    secrets: Mapping[SecretName, SecretRef]
    resolve: Resolve = field(repr=False)
    timeout: timedelta

    async def ask(self, command: Sequence[str], question: JsonObject) -> JsonObject:
        """Run a program and give its answer.

        Args:
            command: The program and its arguments, before places are put in.
            question: What it reads on stdin.

        Raises:
            SecretError: A variable of it does not resolve; it was not run.
            ProgramError: It could not be run, ended badly, took too long, or gave no answer.
        """
        argv = [self.fill(word) for word in command]
        check(argv)
        resolved = await self.resolve(self.secrets)
        env: dict[str, str] = {
            "PATH": SYSTEM_PATH,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        }
        env |= {name: self.fill(value) for name, value in self.env.items()}
        env |= {name: value.get_secret_value() for name, value in resolved.items()}
        try:
            status, output = await run(argv, env, jsonrpc.encode(question), self.timeout)
        except ProgramError as error:
            text = f"{_shown(argv, question)} {error}"
            raise ProgramError(text, was_refused=error.was_refused) from error.__cause__
        if status == NOTHING_DONE:
            text = f"{_shown(argv, question)} ended with status {status}: nothing was done"
            raise ProgramError(text, was_refused=True)
        if status:
            text = f"{_shown(argv, question)} ended with status {status}; its stderr is not kept"
            raise ProgramError(text, was_refused=False)
        try:
            answer = jsonrpc.decode(output)
        except ProtocolError:
            answer = None
        if not isinstance(answer, dict):
            text = f"{_shown(argv, question)} answered with no JSON object"
            raise ProgramError(text, was_refused=False)
        return answer


def _shown(argv: list[str], question: JsonObject) -> str:
    """Name a program with its script, if it has one, and what it was asked."""
    script = [word for word in argv[1:] if word.startswith("/")][:1]
    return f"{question.get('verb', 'asked')}: {' '.join([argv[0], *script])}"
