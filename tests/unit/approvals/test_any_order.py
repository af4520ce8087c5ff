"""Whatever happens in whatever order: at most one call an approval, and none without."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from typing_extensions import override

from orchestrator.approvals.people import Person
from orchestrator.errors import ApprovalError, BusyError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import datetime

    from orchestrator.approvals.passes import ApprovalPass, GrantPass
    from orchestrator.model.approval import Wish
    from tests.unit.approvals.conftest import World

T = TypeVar("T")
AGENTS = ("bot", "alice")
PEOPLE = (Person("alice"), Person("bob"), Person("carol", subject="bot"))
AMOUNTS = ("1", "2")
LASTS = timedelta(minutes=30)
QUORUMS = {"1": 1, "2": 2}


class _DiedError(Exception):
    """The process ended in the middle."""


def _has_names(machine: object) -> bool:
    return isinstance(machine, Machine) and bool(machine.names)


def _has_held(machine: object) -> bool:
    return isinstance(machine, Machine) and bool(machine.held)


class Machine(RuleBasedStateMachine):
    """Calls, people and time, in any order."""

    new_world: type[World]

    def __init__(self) -> None:
        """Begin with nothing asked."""
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
        self.world = self.new_world(self.root)
        self.held: list[tuple[ApprovalPass | GrantPass, Wish]] = []
        self.names: dict[str, Wish] = {}
        self.yes: dict[str, set[str]] = {}
        self.no: set[str] = set()
        self.until: dict[str, datetime] = {}
        self.made: list[str] = []

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Do something to its end."""
        return self.loop.run_until_complete(work)

    def wish(self, amount: str, agent: str) -> Wish:
        """Tell a call."""
        return self.world.wish(amount, agent=agent, quorum=QUORUMS[amount], lasts=LASTS)

    @rule(amount=st.sampled_from(AMOUNTS), agent=st.sampled_from(AGENTS))
    def ask(self, amount: str, agent: str) -> None:
        """Make a call."""
        self.ask_for(amount, agent)

    def ask_for(self, amount: str, agent: str) -> None:
        """Make a call, and keep what lets it through."""
        wish = self.wish(amount, agent)
        try:
            held = self.run(self.world.desk.admit(wish))
        except ApprovalError as error:
            self.names.setdefault(error.approval, wish)
        except BusyError:
            pass
        else:
            assert held.id not in {one.id for one, _ in self.held}
            self.held.append((held, wish))

    @precondition(_has_names)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        """Make a call that came before, as agents do when people have decided."""
        asked = self.names[data.draw(st.sampled_from([*self.names]))].asked
        self.ask_for(asked.arguments_sha256.rsplit(" ", 1)[-1], asked.agent)

    @precondition(_has_names)
    @rule(data=st.data(), person=st.sampled_from(PEOPLE), says=st.booleans())
    def decide(self, data: st.DataObject, person: Person, says: bool) -> None:
        """Have somebody say something."""
        name = data.draw(st.sampled_from([*self.names]))
        try:
            after = self.run(self.world.decide(name, "approve" if says else "deny", person))
        except ApprovalError:
            return
        asked = self.names[name].asked
        assert asked.agent not in {person.name, person.subject}
        assert asked.policy == self.world.policy
        if says:
            self.yes.setdefault(name, set()).add(person.name)
        else:
            self.no.add(name)
        self.until[name] = after.expires_at

    @precondition(_has_held)
    @rule(data=st.data(), dies=st.sampled_from(["no", "before", "after"]))
    def make(self, data: st.DataObject, dies: str) -> None:
        """Use an approval up and make its call, or end in the middle of that."""
        held, wish = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        store = self.world.store
        use = store.use

        def die(name: str, request_id: str, now: datetime) -> bool:
            if dies == "after":
                _ = use(name, request_id, now)
            raise _DiedError

        if dies != "no":
            store.use = die
        try:
            self.run(held.spend("r"))
        except ApprovalError:
            held.release()
            return
        except _DiedError:
            self.crash()
            return
        assert self.names[held.id].asked == wish.asked
        assert len(self.yes.get(held.id, ())) >= wish.demand.quorum
        assert held.id not in self.no
        assert self.until[held.id] > self.world.clock.now()
        assert held.id not in self.made
        self.made.append(held.id)
        held.release()

    @precondition(_has_held)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """Have a call end before it got to its instance."""
        held, _ = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        held.release()

    @rule(minutes=st.sampled_from([1, 6, 11]))
    def wait(self, minutes: int) -> None:
        """Let time pass."""
        self.world.clock.pass_by(timedelta(minutes=minutes))

    @rule()
    def tidy(self) -> None:
        """Write down what time decided."""
        _ = self.world.store.tidy(self.world.clock.now())

    @rule(policy=st.sampled_from(["p1", "p2"]))
    def change_policy(self, policy: str) -> None:
        """Apply other files."""
        self.world.policy = policy

    @rule()
    def crash(self) -> None:
        """End without a word, and begin again."""
        self.held.clear()
        self.world.crash()

    @override
    def teardown(self) -> None:
        """Let go of everything."""
        self.world.close()
        self.loop.close()
        shutil.rmtree(self.root)


def test_any_order_of_events(new_world: type[World]) -> None:
    """Asking, deciding, using, expiring, crashing and changing policies never makes two of one."""
    Machine.new_world = new_world
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=40, stateful_step_count=50, deadline=None)
    )
