"""The order of the filters, with the reason for each place."""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.gateway.context import Exchange, Filter, Handler, chain
from orchestrator.gateway.discovery import Discovery
from orchestrator.gateway.filters.approve import Approve, Gatekeeper
from orchestrator.gateway.filters.attend import Attend
from orchestrator.gateway.filters.authenticate import Authenticate
from orchestrator.gateway.filters.authorize import Authorize
from orchestrator.gateway.filters.disclose import Disclose, cut_result
from orchestrator.gateway.filters.guard import Guard
from orchestrator.gateway.filters.introduce import Introduce
from orchestrator.gateway.filters.parse import Parse
from orchestrator.gateway.filters.record import Record, Recorder, require_record
from orchestrator.gateway.filters.shadow import Shadow
from orchestrator.gateway.filters.spend import Spend
from orchestrator.gateway.filters.throttle import Throttle
from orchestrator.gateway.hub import Hub
from orchestrator.gateway.parking import Parking
from orchestrator.gateway.questions import Questions
from orchestrator.gateway.relay import Relay
from orchestrator.gateway.seal import Seal
from orchestrator.gateway.sessions import Sessions
from orchestrator.gateway.settings import Common, GatewaySettings
from orchestrator.gateway.sums import SumStore
from orchestrator.gateway.table import Table
from orchestrator.guards.index import Guards
from orchestrator.model.names import RoleName
from orchestrator.model.notes import Notes
from orchestrator.policy.decide import CompiledPolicy
from orchestrator.tokens.jwt import OAuthTokens, Verifier


@dataclass(frozen=True, slots=True)
class Parts:
    """What the filters work with.

    Attributes:
        tokens: Tokens that are accepted.
        discovery: Where tokens are to be had, if an identity provider issues them.
        recorder: Keeps a record of each request.
        table: The current snapshot.
        seal: Seals what callers keep.
        sessions: Sessions of legacy callers.
        hub: Callers that listen.
        questions: What legacy callers were asked.
        parking: Calls that wait for modern callers.
        sums: What calls have added up to.
        gatekeeper: Knows what people approved; without it, what they have to is refused.
        guards: What is held back.
        notes: Where calls are told that are recorded and not made; without it none of them is.
        on_session_ended: Is told of a session that its caller ended.
        on_level: Is told that a session of a role changed its log level.
    """

    tokens: Verifier
    discovery: Discovery | None
    recorder: Recorder
    table: Table
    seal: Seal
    sessions: Sessions
    hub: Hub
    questions: Questions
    parking: Parking
    sums: SumStore | None
    gatekeeper: Gatekeeper | None
    guards: Guards
    notes: Notes | None
    on_session_ended: Callable[[RoleName, str], None]
    on_level: Callable[[RoleName], None]


def build_chain(parts: Parts, common: Common, settings: GatewaySettings) -> Handler:
    """Put the filters in their order, the outermost first."""

    def owner_of(exchange: Exchange) -> str:
        place = parts.table.places().get(exchange.role)
        return "" if place is None else place.owner_of(exchange)

    def policy_of(exchange: Exchange) -> CompiledPolicy | None:
        return None if exchange.place is None else exchange.place.policy

    authenticate = Authenticate(parts.tokens, settings.max_open)
    challenge: tuple[Filter, ...] = ()
    introduce: tuple[Filter, ...] = ()
    if parts.discovery is not None:
        challenge = (parts.discovery.challenge,)
    if isinstance(parts.tokens, OAuthTokens):
        introduce = (Introduce(parts.tokens),)
        parts.tokens.on_denied = authenticate.cut_where
    filters: tuple[Filter, ...] = (
        # Adds to refusals, which are made by the next one.
        *challenge,
        # Around everything, so that nothing ends without a record.
        Record(parts.recorder, common.clock),
        # Before the body: a stranger makes nobody read megabytes.
        *introduce,
        authenticate,
        # Once, before anybody decides: all decide on the same message.
        Parse(settings.max_body_bytes, settings.max_held_bytes),
        # What belongs to a session needs the message's kind; what is said beside requests ends.
        Attend(
            parts.sessions,
            parts.hub,
            parts.questions,
            parts.on_session_ended,
            owner_of,
            max_streams=settings.max_streams,
        ),
        # Default deny.
        Authorize(parts.table),
        # What only reads is known now.
        require_record,
        # What is held back exists all the same, so behind that; and costs no rate.
        Guard(parts.guards),
        # Limits are of agents and tools, so after both are known; rules before anything dear.
        Throttle(policy_of, common.clock, settings.hang_up_patience_seconds),
        # What is not to be done needs nobody's approval; but a rule that refuses it comes first.
        Shadow(parts.guards, parts.notes, common.clock),
        # People are asked last, for what nothing else refuses, and before an instance is claimed.
        Approve(policy_of, parts.gatekeeper),
        # What needs no instance ends here: an agent opens and lists while its instance restarts.
        Disclose(
            common.info,
            parts.sessions,
            parts.hub,
            owner_of,
            parts.on_level,
            max_streams=settings.max_streams,
        ),
        # What is counted stays counted, so after everything that may still refuse the call.
        Spend(policy_of, parts.sums),
    )
    # Last, so that nothing that is refused or waits for a person holds up a drain.
    relay = Relay(
        common,
        table=parts.table,
        seal=parts.seal,
        questions=parts.questions,
        parking=parts.parking,
        filter_result=cut_result,
        call_seconds=settings.call_seconds,
        patience=settings.hang_up_patience_seconds,
        guards=parts.guards,
    )
    return chain(filters, relay)
