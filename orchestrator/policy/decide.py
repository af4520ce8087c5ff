"""A role's policy, ready to decide: compiled once for all calls that go by it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, final

from orchestrator.errors import (
    ArgumentsRefusedError,
    RateLimitedError,
    SecretInArgumentsError,
    SumExceededError,
)
from orchestrator.model.amount import format_amount
from orchestrator.model.base import JsonObject, format_duration
from orchestrator.model.names import ToolName
from orchestrator.model.rules import Limit, RolePolicy
from orchestrator.model.secret_formats import find_secret
from orchestrator.model.server import ToolClass
from orchestrator.policy.approval import demands_of
from orchestrator.policy.rates import Buckets, Rate, rate_of
from orchestrator.policy.resources import Prompts, Resources
from orchestrator.policy.revision import revision_of
from orchestrator.policy.sums import Bound, Excess, Needs, bounds_of, read_amount
from orchestrator.policy.tighten import tighten
from orchestrator.protocol.schema import require_constrained

if TYPE_CHECKING:
    from decimal import Decimal

    from orchestrator.policy.arguments import ArgumentRule

_NOTHING: Final[JsonObject] = {}


@final
class CompiledPolicy:
    """What decides about a role's calls.

    Attributes:
        policy: What it was made from.
        revision: Its name.
        shown: The role's tools as agents see them, with tightened schemas.
        resources: The role's resources.
        prompts: The role's prompts.
        has_rates: Whether any rate is limited.
        has_places: Whether it is limited how many calls may be under way.
        approval: What people are asked for, by tool; tools without it are not here.
    """

    def __init__(
        self,
        policy: RolePolicy,
        tools: Sequence[JsonObject],
        classes: Mapping[ToolName, ToolClass],
    ) -> None:
        """Compile a policy.

        Args:
            policy: The policy.
            tools: The role's tools as they were attested.
            classes: Class of each.
        """
        limits = policy.limits
        self.policy = policy
        self.revision = revision_of(policy, tools, classes)
        self.resources = Resources(policy.resources)
        self.prompts = Prompts(policy.prompts)
        self.approval = demands_of(policy.approval, classes)
        self._bounds = bounds_of(policy.sums)
        schemas = {
            name: require_constrained(rule.arguments, rule.optional)
            for name, rule in policy.tools.items()
        }
        self._rules: Mapping[ToolName, ArgumentRule | None] = {}
        if schemas:
            # It takes 40 ms and 8 MB to load, and most roles do without.
            from orchestrator.policy.arguments import compile_rules  # noqa: PLC0415

            self._rules = compile_rules(schemas)
        self.shown = tuple(_show(tool, schemas, self._bounds) for tool in tools)
        self._of_role = rate_of(limits)
        self._of_agent = rate_of(limits.agent)
        self._of_tools = {name: rate_of(limit) for name, limit in limits.tools.items()}
        every = (limits, limits.agent, *limits.tools.values())
        self.has_rates = any(limit.calls_per_minute is not None for limit in every)
        self.has_places = any(limit.concurrency is not None for limit in every)

    def check(self, tool: ToolName, arguments: JsonObject | None, encoded: bytes) -> None:
        """Decide about a call by its arguments.

        Args:
            tool: The tool, which the role has.
            arguments: Its arguments; None when the caller gave none.
            encoded: The arguments as they are sent; empty for none.

        Raises:
            ArgumentsRefusedError: The role's rule for the tool does not allow them.
            SecretInArgumentsError: There is a secret in them.
        """
        if tool in self._rules:
            self._check_rule(tool, _NOTHING if arguments is None else arguments)
        if encoded:
            self.check_secrets(encoded)

    def _check_rule(self, tool: ToolName, arguments: JsonObject) -> None:
        rule = self._rules[tool]
        if rule is not None and rule.accepts(arguments):
            return
        what = "its rule cannot be read" if rule is None else rule.explain(arguments)
        raise ArgumentsRefusedError(
            f"This role may not call {tool} so; nothing was done: {what}",
            rule=f"tools.{tool}.arguments",
        )

    @staticmethod
    def check_secrets(encoded: bytes) -> None:
        """Decide about what goes to a server as text.

        Raises:
            SecretInArgumentsError: There is a secret in it.
        """
        found = find_secret(encoded)
        if found is not None:
            raise SecretInArgumentsError(
                f"The arguments hold what looks like {found}; nothing was done", rule="secrets"
            )

    def charge(self, buckets: Buckets, agent: str, tool: ToolName | None, now: float) -> None:
        """Decide about a request by the rates, and count it.

        Args:
            buckets: The role's.
            agent: Who asks.
            tool: What is called; None for what is no tool.
            now: Monotonic seconds.

        Raises:
            RateLimitedError: It comes too early.
        """
        wanted: list[tuple[tuple[str, str], Rate]] = []
        if self._of_role is not None:
            wanted.append((("limits", ""), self._of_role))
        if self._of_agent is not None:
            wanted.append((("limits.agent", agent), self._of_agent))
        of_tool = None if tool is None else self._of_tools.get(tool)
        if tool is not None and of_tool is not None:
            wanted.append((("limits.tools", tool), of_tool))
        refused = buckets.take(wanted, now)
        if refused is not None:
            (kind, name), wait = refused
            raise self._too_early(kind, name, wait)

    def _too_early(self, kind: str, name: str, wait: float) -> RateLimitedError:
        limits = self.policy.limits
        limit: Limit = limits
        whose, rule = "this role", kind
        if kind == "limits.agent":
            limit, whose = limits.agent, "this agent"
        elif kind == "limits.tools":
            limit, whose = limits.tools[ToolName(name)], f"the tool {name}"
            rule = f"{kind}.{name}"
        return RateLimitedError(
            f"Too many calls: {whose} may have {limit.calls_per_minute} a minute; nothing was done",
            rule=f"{rule}.calls_per_minute",
            retry_after_ms=int(wait * 1000) + 1,
        )

    def has_sums(self, tool: ToolName) -> bool:
        """Tell whether anything is added up over calls of a tool."""
        return tool in self._bounds

    def needs(self, tool: ToolName, arguments: JsonObject | None) -> Needs:
        """Tell what a call would add to the sums.

        Raises:
            ArgumentsRefusedError: An amount is missing, or is none.
        """
        needs: list[tuple[Bound, Decimal]] = []
        for bound in self._bounds[tool]:
            try:
                needs.append((bound, read_amount(arguments or _NOTHING, bound.argument)))
            except ValueError as error:
                raise ArgumentsRefusedError(
                    f"{error}; nothing was done", rule=bound.rule
                ) from error
        return needs


def exceeded(tool: ToolName, excess: Excess) -> SumExceededError:
    """Tell in words for a model what a call would be too much for."""
    bound = excess.bound
    if excess.wait_ms is None:
        when = "a single call may not have more than that"
    else:
        wait = timedelta(seconds=excess.wait_ms // 1000 + 1)
        when = f"there is room for this call in {format_duration(wait)}"
    return SumExceededError(
        f"`{bound.argument}` of {tool} may add up to {format_amount(bound.max)} in "
        f"{format_duration(bound.window)}; {format_amount(excess.left)} is left, and {when}; "
        "nothing was done",
        rule=bound.rule,
        retry_after_ms=excess.wait_ms,
    )


def _show(
    tool: JsonObject,
    schemas: Mapping[ToolName, JsonObject],
    bounds: Mapping[ToolName, tuple[Bound, ...]],
) -> JsonObject:
    """Tell what agents see of a tool."""
    name, schema = ToolName(str(tool.get("name"))), tool.get("inputSchema")
    asked = [schemas[name]] if name in schemas else []
    asked += [_demand(bound.argument) for bound in bounds.get(name, ())]
    if not asked:
        return tool
    shown: JsonObject = schema if isinstance(schema, dict) else {"type": "object"}
    for rule in asked:
        shown = tighten(shown, rule)
    return {**tool, "inputSchema": shown}


def _demand(argument: str) -> JsonObject:
    """Write the schema that asks for an argument to be given."""
    schema: JsonObject = {}
    for name in reversed(argument.split(".")):
        schema = {"type": "object", "properties": {name: schema}, "required": [name]}
    return schema
