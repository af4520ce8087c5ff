"""What a server file may say."""

from datetime import timedelta
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from orchestrator.model.base import Duration, Json, Model, PositiveDuration
from orchestrator.model.container import Container, InsideField
from orchestrator.model.names import (
    ARGUMENT_PATTERN,
    HTTP_PATH_PATTERN,
    BandField,
    BandName,
    SecretField,
    ServerField,
    ToolField,
    ToolName,
)
from orchestrator.model.reference import SecretRefField
from orchestrator.model.role import Mode, Sentence
from orchestrator.model.rules import Asks

ToolClass: TypeAlias = Literal["READ", "WRITE", "DESTRUCTIVE"]
EraChoice: TypeAlias = Literal["auto", "legacy", "modern"]
Transport: TypeAlias = Literal["stdio", "http"]
Listening: TypeAlias = Literal["socket", "port"]
Words = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
ArgumentField = Annotated[str, StringConstraints(pattern=ARGUMENT_PATTERN)]
HttpPath = Annotated[str, StringConstraints(pattern=HTTP_PATH_PATTERN)]


class Launch(Model):
    """How an instance is started.

    Attributes:
        command: Program and arguments of a process. `{python}`, `{project}`, `{state}`, `{role}`
            are filled in. The program is an absolute path, a path inside the project, or a name
            that is looked up once, when the files are checked. Only roles with
            `runtime: container` do without it.
        directory: Working directory of a process, filled in the same way; the role's private home
            by default. A container begins in the directory that its image names.
        env: Plain variables that every role's instance gets; filled in the same way.
        accepts: Variables that a role file may set, with what they mean; no others pass.
        transport: How it speaks MCP: `stdio`, or `http` (Streamable HTTP), for servers that speak
            nothing else.
        listen: Where an `http` server listens: `socket`, a unix socket that other users cannot
            reach, or `port`, a port of 127.0.0.1, which every local process can reach. It is
            told where by `{socket}` or `{port}` in `command` or `env`.
        path: Path of the URL at which an `http` server speaks MCP.
        shares_files: Whether instances of several roles use the same files. `agents up --users`
            makes no users for such roles, who could not open each other's files.
    """

    command: Annotated[tuple[Words, ...], Field(min_length=1, strict=False)] | None = None
    directory: Words | None = None
    env: dict[SecretField, str] = Field(default_factory=dict)
    accepts: dict[SecretField, Sentence] = Field(default_factory=dict)
    transport: Transport = "stdio"
    listen: Listening = "socket"
    path: HttpPath = "/mcp"
    shares_files: bool = False


class Bands(Model):
    """The server's bands, from the least to the most.

    Attributes:
        names: Band names in order.
        cumulative: Whether a band includes all that stand before it.
        variable: The environment variable that sets them in the server itself. Without it the
            gateway cuts the tool list.
        full: The value that stands for all bands, where the server knows one.
    """

    names: Annotated[tuple[BandField, ...], Field(min_length=1, strict=False)]
    cumulative: bool = True
    variable: SecretField | None = None
    full: str | None = None


class Modes(Model):
    """How the server is told whose mode it runs in.

    Attributes:
        variable: The environment variable.
        from_band: The first band that needs it; below that it is left unset.
    """

    variable: SecretField
    from_band: BandField | None = None


class Tool(Model):
    """One tool of the server.

    Attributes:
        band: The band that it belongs to.
        kind: What it does to the world.
        modes: Modes in which the server has it.
        identifies: Arguments whose values tell what a call is about, such as an address; short,
            never secret. The record keeps them; of others it keeps the size alone.
        receipt: What a call of it does, for the people who approve it: a text in which
            `{arguments.NAME}` stands for an argument and `{arguments.NAME|evm}` for what an
            unsigned EVM transaction in it does.
    """

    band: BandField
    kind: ToolClass = Field(alias="class")  # `class` in the file
    modes: Annotated[tuple[Mode, ...], Field(min_length=1, strict=False)] = ("agent", "owner")
    identifies: Annotated[tuple[ArgumentField, ...], Field(max_length=8, strict=False)] = ()
    receipt: Annotated[str, StringConstraints(max_length=4096)] = ""


class Probe(Model):
    """When an instance counts as ready and as alive.

    Attributes:
        startup: How long it may take to answer its first `tools/list`.
        every: How often a quiet instance is asked for a sign of life.
        patience: How long one sign may take.
        misses: Missing signs in a row that make it wedged.
    """

    startup: PositiveDuration = timedelta(seconds=60)
    every: PositiveDuration = timedelta(seconds=10)
    patience: PositiveDuration = timedelta(seconds=5)
    misses: Annotated[int, Field(ge=1, le=100)] = 3


class Stop(Model):
    """How an instance is stopped.

    Attributes:
        drain: How long calls in flight are waited for before it is asked to end.
        grace: How long it may take to end before its process group is killed.
    """

    drain: Duration = timedelta(seconds=30)
    grace: Duration = timedelta(seconds=10)


class BootstrapCall(Model):
    """One tool call of a bootstrap.

    Attributes:
        tool: The tool.
        arguments: Its arguments; `{state}`, `{project}` are filled in inside texts. No secret.
        accept: Error codes that mean somebody did it already.
    """

    tool: ToolField
    arguments: dict[str, Json] = Field(default_factory=dict)
    accept: Annotated[tuple[Words, ...], Field(strict=False)] = ()


class Bootstrap(Model):
    """What the first start does once, in a short-lived instance that no agent reaches.

    Attributes:
        bands: Bands of the short-lived instance, or `full`.
        mode: Its mode.
        env: Plain variables of it alone.
        secrets: Secrets of it alone.
        generate: Files that receive random text (bytes of randomness) once, mode 0600.
        calls: Tool calls, in order.
        produces: Files that must be there, private, when it is done.
        keep: Directories that only its own container writes, beside those of `container: keep:`,
            each with its place inside; for what no role's container may read.
        moves: Files that were kept elsewhere once, each with its place now; they are moved there
            before anything else is done.
    """

    bands: Annotated[tuple[BandField, ...], Field(min_length=1, strict=False)] | Literal["full"]
    mode: Mode
    env: dict[SecretField, str] = Field(default_factory=dict)
    secrets: dict[SecretField, SecretRefField] = Field(default_factory=dict)
    generate: dict[str, Annotated[int, Field(ge=16, le=64)]] = Field(default_factory=dict)
    calls: Annotated[tuple[BootstrapCall, ...], Field(strict=False)] = ()
    produces: Annotated[tuple[Words, ...], Field(strict=False)] = ()
    keep: dict[Words, InsideField] = Field(default_factory=dict)
    moves: dict[Words, Words] = Field(default_factory=dict)


class Server(Model):
    """One MCP server: how to launch it, what it offers, who owns it.

    Attributes:
        server: Name, also the file's name.
        description: What it is for.
        owner: Whom to ask about it.
        source: Where it comes from: package and version, or path.
        era: Which protocol era it speaks; `auto` asks once and remembers.
        launch: How an instance is started.
        container: How it is started in a container, where it may be.
        bands: Its bands.
        modes: How it is told its mode, if it has any.
        tools: Every tool it may ever show, with band and class.
        probe: When an instance is ready and alive.
        stop: How an instance is stopped.
        bootstrap: What the first start does once.
        asks: What the server may ask its callers in the middle of a request; nothing by default.
    """

    server: ServerField
    description: Sentence
    owner: Sentence
    source: Sentence
    era: EraChoice = "auto"
    launch: Launch = Launch()
    container: Container | None = None
    bands: Bands
    modes: Modes | None = None
    tools: Annotated[dict[ToolField, Tool], Field(min_length=1)]
    probe: Probe = Probe()
    stop: Stop = Stop()
    bootstrap: Bootstrap | None = None
    asks: Asks = ()

    def tools_of(self, bands: tuple[BandName, ...] | None, mode: Mode) -> frozenset[ToolName]:
        """Tell the tools that these bands in this mode promise; None stands for all bands."""
        wanted = self.bands.names if bands is None else bands
        return frozenset(
            name for name, tool in self.tools.items() if tool.band in wanted and mode in tool.modes
        )
