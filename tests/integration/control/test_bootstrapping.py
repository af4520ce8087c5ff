"""What is done once for a server, before the roles that need it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from orchestrator.model.desired import BootstrapSpec
from orchestrator.model.names import SecretName
from orchestrator.model.secret import SecretRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.model.workload import WorkloadSpec
    from tests.integration.control.conftest import Control, Project

Call = dict[str, object]


def key(project: Project) -> Path:
    """Tell the file that the bootstrap generates."""
    return project.root / "data" / "key"


def token(project: Project) -> Path:
    """Tell the file that the server makes when it is asked to."""
    return project.root / "data" / "token"


def make(project: Project, *calls: Call, options: tuple[str, ...] = ()) -> BootstrapSpec:
    """Describe a bootstrap that generates a key and has the server make a token."""
    spec = project.spec(
        *options, role="bootstrap", mode="owner", secrets={"KEY": f"file:{key(project)}"}
    )
    return BootstrapSpec.model_validate(
        {
            "server": "scripted",
            "spec": spec,
            "generate": {str(key(project)): 32},
            "calls": (*calls, {"tool": "write", "arguments": {"path": str(token(project))}}),
            "produces": (str(token(project)),),
        }
    )


def needy(project: Project) -> WorkloadSpec:
    """Describe a role that needs the token."""
    return project.spec(secrets={"TOKEN": f"file:{token(project)}"})


def fill(project: Project) -> None:
    """Make the token by hand: an empty one is refused as a secret."""
    _ = token(project).write_text("a token of some length\n")


async def until_told(control: Control, text: str) -> None:
    """Wait until a note holds a text."""
    await control.until(lambda: any(text in note for note in control.bootstraps.notes()))


async def until_done(project: Project) -> None:
    """Wait until the bootstrap is done, and its instance gone."""
    with anyio.fail_after(30):
        while "scripted" not in project.state().state.bootstrapped:  # noqa: ASYNC110  a file
            await anyio.sleep(0.01)
        while "bootstrap.scripted.g1" in await project.runtime.observe():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def test_it_is_done_once(project: Project, servers: Callable[[], list[int]]) -> None:
    """Its calls are made once, its instance is ended, and later runs do not repeat it."""
    async with project.control() as control:
        await control.apply(bootstrap=make(project))
        await until_done(project)
        await control.until(lambda: control.bootstraps.notes() == ())
        assert servers() == []
    generated = key(project).read_bytes()
    assert len(generated) >= 32
    assert key(project).stat().st_mode & 0o777 == 0o600
    assert key(project).parent.stat().st_mode & 0o777 == 0o700
    async with project.control() as again:
        await again.apply(bootstrap=make(project))
        assert again.bootstraps.notes() == ()
    calls = [line for line in project.noted() if line.startswith("call")]
    assert len(calls) == 1
    assert key(project).read_bytes() == generated


def move(project: Project, bootstrap: BootstrapSpec) -> tuple[BootstrapSpec, Path]:
    """Describe the same bootstrap as a newer file does, which keeps its files elsewhere."""
    place = project.root / "own"
    fresh = {old: str(place / Path(old).name) for old in (str(key(project)), str(token(project)))}
    spec = bootstrap.spec.model_copy(
        update={"secrets": {SecretName("KEY"): SecretRef("file", fresh[str(key(project))], "")}}
    )
    made = {"spec": spec, "generate": {fresh[str(key(project))]: 32},
            "produces": (fresh[str(token(project))],), "moves": fresh}  # fmt: skip
    return bootstrap.model_copy(update=made), place


async def test_files_are_moved_once(project: Project) -> None:
    """Where a newer file keeps them elsewhere, what was made is brought there, and made no more."""
    async with project.control() as control:
        await control.apply(bootstrap=make(project))
        await until_done(project)
    fill(project)
    token(project).chmod(0o600)
    before = key(project).read_bytes(), token(project).read_bytes()
    newer, place = move(project, make(project))
    async with project.control() as control:
        role = project.spec(secrets={"TOKEN": f"file:{place / 'token'}"})
        await control.apply(role, bootstrap=newer)
        _ = await control.until_ready()
        assert control.bootstraps.notes() == ()
    assert ((place / "key").read_bytes(), (place / "token").read_bytes()) == before
    assert not key(project).exists()
    assert not token(project).exists()
    assert place.stat().st_mode & 0o777 == 0o700
    assert len([line for line in project.noted() if line.startswith("call")]) == 1


async def test_a_link_is_not_moved(project: Project) -> None:
    """What somebody put in the place of such a file is refused, and nothing is made anew."""
    async with project.control() as control:
        await control.apply(bootstrap=make(project))
        await until_done(project)
    secret = key(project).rename(project.root / "secret")
    key(project).symlink_to(secret)
    newer, place = move(project, make(project))
    async with project.control() as control:
        await control.apply(bootstrap=newer)
        await until_told(control, "is a symbolic link")
    assert not place.exists()


async def test_only_roles_that_need_it_wait(project: Project) -> None:
    """A role that needs its files waits for it; others are ready meanwhile."""
    gate = project.root / "gate"
    bootstrap = make(project, {"tool": "hold"})
    async with project.control() as control:
        await control.apply(needy(project), project.spec(role="other"), bootstrap=bootstrap)
        _ = await control.until_ready("other")
        await control.until(lambda: any("call hold" in line for line in project.noted()))
        assert control.role().state == "starting"
        assert not control.reconciler.is_settled()
        await until_told(control, "bootstrap of scripted: under way")
        assert not gate.exists()


async def test_a_role_goes_on_with_its_files(project: Project) -> None:
    """The role that waited is launched with what the bootstrap made."""
    bootstrap = make(project)
    async with project.control() as control:
        spec = project.spec(secrets={"KEY": f"file:{key(project)}"})
        await control.apply(spec, bootstrap=bootstrap)
        ready = await control.until_ready()
        assert ready.restarts == 0
        assert project.noted()[-2:] == ["start", "initialize"]
        assert [line.split()[0] for line in project.noted()].count("start") == 2


async def test_a_crash_in_the_middle_is_repeated(project: Project) -> None:
    """An instance that ends before its last call leaves it undone; asking again does it all."""
    once = project.root / "once"
    first: Call = {"tool": "refuse", "arguments": {"code": "THERE"}, "accept": ("THERE",)}
    bootstrap = make(project, first, {"tool": "crash-once", "arguments": {"path": str(once)}})
    async with project.control() as control:
        await control.apply(needy(project), bootstrap=bootstrap)
        await until_told(control, "ended in the middle")
        status = await control.until_state("blocked")
        assert "the bootstrap of scripted failed" in status.detail
        assert status.hint
        generated = key(project).read_bytes()
        await control.apply(needy(project), bootstrap=bootstrap)
        await until_done(project)
        fill(project)
        _ = await control.until_ready()
        assert key(project).read_bytes() == generated
    tools = [line.split()[1] for line in project.noted() if line.startswith("call")]
    assert tools == ["refuse", "crash-once", "refuse", "crash-once", "write"]


async def test_a_crash_of_the_control_plane_is_repeated(
    project: Project, alive: Callable[[int], bool]
) -> None:
    """A bootstrap that was under way is begun anew by the next run, in a fresh instance."""
    bootstrap = make(project)
    project.state().update(bootstraps={bootstrap.server: bootstrap})
    spec = bootstrap.spec.model_copy(update={"secrets": {}})
    with anyio.fail_after(30):
        await project.runtime.start(spec)
        left = await project.runtime.launch(spec, {})
    async with project.control() as control:
        assert not alive(left.pid)
        await until_done(project)
        await control.until(lambda: control.bootstraps.notes() == ())


async def test_the_end_of_the_control_plane_ends_it(
    project: Project, servers: Callable[[], list[int]]
) -> None:
    """An instance in owner mode does not outlive the run that had it started."""
    async with project.control() as control:
        await control.apply(bootstrap=make(project, {"tool": "hold"}))
        await control.until(lambda: any("call hold" in line for line in project.noted()))
    await project.until_empty()
    assert servers() == []
    assert project.state().state.bootstrapped == {}


async def test_it_is_done_again_when_its_files_are_gone(project: Project) -> None:
    """A file that was deleted is made again by the next apply."""
    async with project.control() as control:
        await control.apply(bootstrap=make(project))
        await until_done(project)
        await control.until(lambda: control.bootstraps.notes() == ())
        token(project).unlink()
        await control.apply(bootstrap=make(project))
        await control.until(token(project).exists)
        await control.until(lambda: control.bootstraps.notes() == ())


async def test_a_refused_call_is_told_without_its_colours(project: Project) -> None:
    """A refusal ends it with the server's code and words, made harmless for a terminal."""
    refuse: Call = {"tool": "refuse", "arguments": {"code": "NO_\x1b[2JMORE"}}
    async with project.control() as control:
        await control.apply(bootstrap=make(project, refuse))
        await until_told(control, "refuse failed: NO_")
        (told,) = control.bootstraps.notes()
        assert told.isprintable()
        assert "MORE" in told
    assert project.state().state.bootstrapped == {}


async def test_an_instance_that_does_not_start(project: Project) -> None:
    """One that ends at once is told at once, not after the longest time that it may take."""
    async with project.control() as control:
        await control.apply(bootstrap=make(project, options=("--exit", "3")))
        await until_told(control, "its instance ended in the middle")


async def test_a_file_that_is_not_private(project: Project) -> None:
    """What the server made readable by others is refused, and the bootstrap not done."""
    async with project.control() as control:
        key(project).parent.mkdir(mode=0o700)
        token(project).touch()
        token(project).chmod(0o644)
        await control.apply(bootstrap=make(project))
        await until_told(control, "readable by others")


async def test_a_file_that_was_not_made(project: Project) -> None:
    """A server that says it did its work and did not is not believed."""
    bootstrap = make(project)
    other = bootstrap.model_copy(update={"calls": (), "produces": (str(project.root / "none"),)})
    async with project.control() as control:
        await control.apply(bootstrap=other)
        await until_told(control, "did not make")


async def test_a_lost_engine_fails_only_the_bootstrap(project: Project) -> None:
    """When the engine dies in the middle, the control plane and its roles go on."""
    async with project.control() as control:
        await control.apply(project.spec(role="other"), bootstrap=make(project, {"tool": "hold"}))
        _ = await control.until_ready("other")
        await control.until(lambda: any("call hold" in line for line in project.noted()))
        held = (await project.runtime.observe())[make(project).spec.name].pid
        engine = await project.engine.find()
        assert engine is not None
        os.kill(engine, signal.SIGKILL)
        await control.until(control.reconciler.notes)
        os.kill(held, signal.SIGKILL)
        await until_told(control, "bootstrap of scripted")
        assert await control.plane.call("other", "echo", {}) == "{}"
