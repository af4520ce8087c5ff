"""Asks libraries that could hang, write files or say too much: each in a short process of its own.

What they hold is gone with the process, its group is killed when it takes too long, and nothing
but its answer comes back.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, cast

from pydantic import SecretStr

from orchestrator.errors import SecretStoreUnavailableError
from orchestrator.model.base import Json
from orchestrator.secrets.base import missing_library
from orchestrator.secrets.program import Task, run

TIMEOUT_SECONDS: Final = 10.0


def ask_library(
    extra: Literal["keyring", "secretspec"],
    request: Mapping[str, str],
    env: Mapping[str, str],
    directory: Path = Path("/"),
) -> Json:
    """Ask a library.

    Args:
        extra: The library, which is the extra of ours that brings it, too.
        request: What its process reads; nothing secret.
        env: Variables beside the baseline.
        directory: Where it runs.

    Returns:
        What its process answered.

    Raises:
        SecretStoreUnavailableError: The library is missing, or its process failed.
    """
    text = run(
        Task(
            name=f"the library {extra}",
            argv=(sys.executable, "-I", "-m", f"orchestrator.secrets.{extra}_child"),
            timeout=TIMEOUT_SECONDS,
            env=env,
            stdin=SecretStr(json.dumps(dict(request))),
            directory=directory,
            quotes=False,
        )
    )
    try:
        answer = cast("Json", json.loads(text))
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise SecretStoreUnavailableError(f"the library {extra} gave no answer")
    if answer == {"problem": "library"}:
        raise missing_library(extra)
    return answer
