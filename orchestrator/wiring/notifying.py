"""How each kind of target is reached."""

import json
import os
from collections.abc import Callable
from typing import Final, final

import anyio.to_thread
from pydantic import SecretStr

from orchestrator.clock import Clock
from orchestrator.config.places import Places
from orchestrator.errors import SecretError
from orchestrator.model.notify import Mailbox, Pager, Target, Webhook
from orchestrator.model.secret import SecretRef
from orchestrator.notify.base import Message, Send, SendError
from orchestrator.paths import Paths
from orchestrator.rotation.running import ProgramError, check, run

# What a program needs to run; it does not get our own variables.
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME")


@final
class Ways:
    """Gives the way to a target."""

    def __init__(
        self, paths: Paths, look_up: Callable[[SecretRef], SecretStr], clock: Clock
    ) -> None:
        """Prepare.

        Args:
            paths: The project's directories; programs run in its root.
            look_up: Tells what a reference stands for; may block.
            clock: Where time comes from.
        """
        self._paths = paths
        self._look_up = look_up
        self._clock = clock

    def to(self, target: Target) -> Send:
        """Give the way to a target."""

        async def send(message: Message, /) -> None:
            try:
                await self._send(target, message)
            except SecretError as error:
                raise SendError(f"its secret is missing: {error}") from None

        return send

    async def _send(self, target: Target, message: Message) -> None:
        match target:
            case Webhook():
                # The HTTP client takes a while to load, and most projects tell nobody.
                from orchestrator.notify import webhook  # noqa: PLC0415

                await webhook.post(target, message, self._resolve, self._clock)
            case Mailbox():
                from orchestrator.notify import mail  # noqa: PLC0415  the same

                password = ""
                if target.password is not None:
                    password = (await self._resolve(target.password)).get_secret_value()
                await anyio.to_thread.run_sync(
                    mail.post, target, message, password, abandon_on_cancel=True
                )
            case Pager():
                await self._run(target, message)

    async def _resolve(self, reference: SecretRef) -> SecretStr:
        return await anyio.to_thread.run_sync(self._look_up, reference)

    async def _run(self, target: Pager, message: Message) -> None:
        fill = Places(self._paths.root, self._paths.state).fill
        command = tuple(map(fill, target.command))
        told = json.dumps(
            {
                "id": message.id,
                "topic": message.topic,
                "title": message.title,
                "text": message.text,
                "links": [{"label": one.label, "url": one.url} for one in message.links],
                "owner": message.owner,
            }
        )
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            check(command, self._paths.root)
            status, _ = await run(
                command,
                environment,
                told.encode() + b"\n",
                target.timeout,
                directory=self._paths.root,
                is_heard=False,
            )
        except ProgramError as error:
            raise SendError(f"its program {error}") from None
        if status:
            raise SendError(f"its program ended with status {status}")
