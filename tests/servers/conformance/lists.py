"""Lists that change while the server runs, and who is told."""

from typing import Final

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import (
    PromptsListChanged,
    ResourceUpdated,
    ServerEvent,
    SubscriptionBus,
    ToolsListChanged,
)
from tool import NOTHING, Result, Tool, say

DYNAMIC_TOOL: Final = "test_dynamic_tool"
DYNAMIC_PROMPT: Final = "test_dynamic_prompt"
WATCHED: Final = "test://watched-resource"


class Lists:
    """What is shown at present; one tool and one prompt come and go."""

    def __init__(self, bus: SubscriptionBus) -> None:
        """Show everything."""
        self._bus = bus
        self._hidden: set[str] = set()
        self._subscribed: set[str] = set()
        self.tools = (
            Tool(DYNAMIC_TOOL, "Comes and goes.", self._be_there, NOTHING),
            Tool("test_trigger_tool_change", "Changes the tools.", self._change_tools, NOTHING),
            Tool(
                "test_trigger_prompt_change", "Changes the prompts.", self._change_prompts, NOTHING
            ),
            Tool("test_trigger_resource_update", "Updates a resource.", self._update, NOTHING),
        )

    def shows(self, name: str) -> bool:
        """Tell whether a tool or a prompt is there."""
        return name not in self._hidden

    async def subscribe(
        self, _: ServerRequestContext, params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        """Take the older era's wish to hear of a resource."""
        await anyio.lowlevel.checkpoint()
        self._subscribed.add(params.uri)
        return types.EmptyResult()

    async def unsubscribe(
        self, _: ServerRequestContext, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        """Take it back."""
        await anyio.lowlevel.checkpoint()
        self._subscribed.discard(params.uri)
        return types.EmptyResult()

    async def _be_there(self, _: ServerRequestContext, __: types.CallToolRequestParams) -> Result:
        await anyio.lowlevel.checkpoint()
        return say("It is there")

    async def _change_tools(
        self, ctx: ServerRequestContext, _: types.CallToolRequestParams
    ) -> Result:
        self._hidden ^= {DYNAMIC_TOOL}
        await self._tell(ctx, ToolsListChanged(), types.ToolListChangedNotification())
        return say("The tools changed")

    async def _change_prompts(
        self, ctx: ServerRequestContext, _: types.CallToolRequestParams
    ) -> Result:
        self._hidden ^= {DYNAMIC_PROMPT}
        await self._tell(ctx, PromptsListChanged(), types.PromptListChangedNotification())
        return say("The prompts changed")

    async def _update(self, ctx: ServerRequestContext, _: types.CallToolRequestParams) -> Result:
        params = types.ResourceUpdatedNotificationParams(uri=WATCHED)
        news = types.ResourceUpdatedNotification(params=params)
        await self._tell(
            ctx, ResourceUpdated(WATCHED), news if WATCHED in self._subscribed else None
        )
        return say("The resource was updated")

    async def _tell(
        self,
        ctx: ServerRequestContext,
        event: ServerEvent,
        notification: types.ServerNotification | None,
    ) -> None:
        """Tell listeners of the newer era, and the caller's session if it is of the older one."""
        await self._bus.publish(event)
        if ctx.session.can_send_request and notification is not None:
            await ctx.session.send_notification(notification)
