"""The engine's configuration files, read back by the engine's own parser."""

import shlex
from pathlib import Path
from typing import Protocol, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from supervisor.options import ServerOptions

from orchestrator.errors import SettingsError
from orchestrator.render.supervisord import (
    ControlProgram,
    EngineFacts,
    WorkloadProgram,
    main_file,
    program_file,
)

LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"])
ARGUMENT = st.text(LETTERS | st.sampled_from(" ;#%'\"\\$"), max_size=30)


class Config(Protocol):
    """What supervisor reads of one program, as far as it is looked at."""

    name: str
    command: str
    autostart: bool
    startsecs: int
    startretries: int
    stopwaitsecs: int
    stopasgroup: bool
    killasgroup: bool
    redirect_stderr: bool
    stdout_logfile: str | None
    stderr_logfile: str | None
    environment: dict[str, str]


class Group(Protocol):
    """A group of programs."""

    process_configs: list[Config]


def read_back(
    directory: Path, *programs: WorkloadProgram, control: ControlProgram | None = None
) -> dict[str, Config]:
    """Write the files and have supervisor read them."""
    facts = EngineFacts(str(directory), str(directory / "engine.log"), "agents", "ab" * 20, False)  # noqa: FBT003 - a field of data
    (directory / "conf.d").mkdir(exist_ok=True)
    for program in programs:
        path = directory / "conf.d" / f"{program.name}.conf"
        _ = path.write_text(program_file(program), "utf-8")
    main = directory / "supervisor.conf"
    _ = main.write_text(main_file(facts, control), "utf-8")
    options = ServerOptions()
    options.realize(["-c", str(main)], doc="")  # pyright: ignore[reportUnknownMemberType] - supervisor has no types
    groups = cast("list[Group]", options.process_group_configs)
    return {config.name: config for group in groups for config in group.process_configs}


def a_program(directory: Path, *argv: str) -> WorkloadProgram:
    """Describe a workload's program."""
    return WorkloadProgram("reader.test.g1", argv, str(directory / "reader.log"), 12)


def test_settings_of_a_workload(tmp_path: Path) -> None:
    """A workload comes back after every exit, is never given up, and is stopped as a group."""
    program = a_program(tmp_path, "/bin/true", "sit")
    config = read_back(tmp_path, program)["reader.test.g1"]
    found = {
        name: cast("object", getattr(config, name))
        for name in ("autostart", "startsecs", "startretries", "stopwaitsecs", "stopasgroup")
    }
    assert found == {
        "autostart": True,
        "startsecs": 1,
        "startretries": 1_000_000,
        "stopwaitsecs": 12,
        "stopasgroup": True,
    }
    assert config.killasgroup is True
    assert config.stdout_logfile is None
    assert config.stderr_logfile == str(tmp_path / "reader.log")
    assert config.environment == {}


def test_control_plane_has_its_own_log(tmp_path: Path) -> None:
    """The control plane is a program of the main file, with stdout and stderr in one log."""
    control = ControlProgram(("/bin/true", "--project", "/a b"), str(tmp_path / "agentsd.log"))
    config = read_back(tmp_path, control=control)["agentsd"]
    assert shlex.split(config.command) == ["/bin/true", "--project", "/a b"]
    assert config.stdout_logfile == str(tmp_path / "agentsd.log")
    assert config.redirect_stderr is True


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.lists(ARGUMENT, max_size=4))
def test_every_argument_comes_back(tmp_path: Path, arguments: list[str]) -> None:
    """Comment marks, expansions and quotes in arguments mean themselves."""
    argv = ("/bin/true", *arguments)
    config = read_back(tmp_path, a_program(tmp_path, *argv))["reader.test.g1"]
    assert shlex.split(config.command) == list(argv)


def test_the_engine_s_own_words_in_an_argument(tmp_path: Path) -> None:
    """What supervisord replaces without asking comes back as it was written."""
    argv = ["/bin/true", "%(here)s", "a %(here)s ;b", "%%(here)s", "%(ENV_HOME)s"]
    config = read_back(tmp_path, a_program(tmp_path, *argv))["reader.test.g1"]
    assert shlex.split(config.command) == argv


def test_percent_in_a_path(tmp_path: Path) -> None:
    """A percent sign in a path is no expansion."""
    odd = tmp_path / "100%(ENV_X)s"
    odd.mkdir()
    config = read_back(odd, a_program(odd, "/bin/true"))["reader.test.g1"]
    assert config.stderr_logfile == str(odd / "reader.log")


@pytest.mark.parametrize(
    "path", ["/l/%(here)s", "/l/a ;b", "/l/a #b", "/l/a\nb", "/l/a ", "/l/\x07"]
)
def test_path_that_cannot_be_quoted_is_refused(path: str) -> None:
    """A path that the engine would cut or split is refused, not written."""
    with pytest.raises(SettingsError, match="cannot be written"):
        _ = program_file(WorkloadProgram("reader.test.g1", ("/bin/true",), path, 1))


def test_argument_with_a_newline_is_refused() -> None:
    """A newline in an argument could begin another key."""
    with pytest.raises(SettingsError, match="control character"):
        _ = program_file(WorkloadProgram("r.s.g1", ("/bin/true", "a\nuser=root"), "/l", 1))


@pytest.mark.parametrize("run", ["/r/a*b", "/r/a?b", "/r/[ab]"])
def test_run_directory_with_a_pattern_is_refused(run: str) -> None:
    """The engine looks its files up by a pattern, in which the directory must mean itself."""
    with pytest.raises(SettingsError, match="run directory"):
        _ = main_file(EngineFacts(run, "/l", "agents", "ab", True), None)  # noqa: FBT003 - a field of data


def test_root_is_named() -> None:
    """An engine that runs as root says so, which it otherwise reports as critical."""
    assert "\nuser=root\n" in main_file(EngineFacts("/r", "/l", "agents", "ab", True), None)  # noqa: FBT003 - a field of data
