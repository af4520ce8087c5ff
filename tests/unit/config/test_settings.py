"""The settings file, and the places that it names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.config.settings import (
    check_socket_paths,
    load_settings,
    run_directory,
    state_directory,
)
from orchestrator.errors import RoleFileError, SettingsError
from orchestrator.model.names import WorkloadName

Complaints = Callable[[], list[str]]

ADDRESS = "an address is a host and a port, such as 127.0.0.1:8700 or [::1]:8700"
BEYOND = (
    "other machines could reach this address, and TLS is not built in yet; listen on 127.0.0.1 and "
    "put a TLS proxy in front"
)
OWN = "would close the project's own directory to others; name one inside, or elsewhere"
MISTAKES = {
    "listen: 0.0.0.0:8700": f"1:9: listen: {BEYOND}",
    "listen: '[::]:8700'": f"1:9: listen: {BEYOND}",
    "listen: example.com:80": f"1:9: listen: {BEYOND}",
    "listen: 127.0.0.1": f"1:9: listen: {ADDRESS}",
    "listen: 127.0.0.1:70000": f"1:9: listen: {ADDRESS}",
    "listen: 8700": "1:9: listen: has to be a text, not a number; put it in quotes",
    "hosts: ['*']": "1:9: hosts[0]: a host is a name and maybe a port, such as "
    "agents.example.com:443",
    "origins: [https://a/b]": "1:11: origins[0]: an origin is http:// or https:// with a host, and "
    "no path",
    "origins: ['null']": "1:11: origins[0]: an origin is http:// or https:// with a host, and no "
    "path",
    "state: .": f"1:8: state: {OWN}",
    "state: ..": f"1:8: state: {OWN}",
    "state: /": f"1:8: state: {OWN}",
    "run: /dev/shm": "1:6: run: is a directory that many share; name one of its own inside it",
    "run: agents.yaml": "1:6: run: is no directory; name another place",
    "state: ~/state": "1:8: state: nothing is expanded in a directory's name; write it out",
    "run: $XDG_RUNTIME_DIR/x": "1:6: run: nothing is expanded in a directory's name; write it out",
    "state: ''": "1:8: state: has the wrong length or size; at least 1 characters",
    "log_level: verbose": "1:12: log_level: `verbose` is not possible here; known: debug, error, "
    "info, warning",
    "port: 1": "1:1: port: unknown key; known: attach, audit, auth, docker, hosts, issuers, "
    "listen, log_level, notify, origins, run, state, stores, vault",
    "notify: {ops: {hook: x}}": "1:15: notify.ops: a target has `webhook:`, `smtp:` or `command:`",
    "notify: {ops: {webhook: http://a.example.com/x}}": "1:25: notify.ops.webhook: messages hold "
    "links that let people decide: the URL has to be https",
    "notify: {ops: {webhook: https://a.example.com/services/T0/xK29fjq0zPqmLw82nVbT4yHs}}": "1:25: "
    "notify.ops.webhook: looks like a secret: whoever knows this URL may write there; keep it "
    "elsewhere and write a reference, such as env:ALERTS_URL",
    "notify: {ops: {webhook: https://a.example.com/x, secrt: env:B}}": "1:50: notify.ops.secrt: "
    "unknown key; did you mean `secret`? known: approver, secret, topics, webhook",
    "notify: {ops: {smtp: 'a.example.com:25', from: a@b, to: [c@d], security: none}}": "1:15: "
    "notify.ops: mail without TLS goes to a server on this machine alone",
    "notify: {ops: {smtp: a.example.com, from: a@b, to: [c@d]}}": "1:22: notify.ops.smtp: a mail "
    "server is a host and a port, such as smtp.example.com:587",
    "audit: {sinks: {siem: {to: x}}}": "1:23: audit.sinks.siem: a sink has `http:`, `syslog:`, "
    "`file:` or `otlp:`",
    "audit: {sinks: {siem: {http: http://a.example.com/x}}}": "1:23: audit.sinks.siem: whoever is "
    "on the way there could read the record: take https, or add `plain: true` if the way is a "
    "network of its own",
    "audit: {sinks: {siem: {http: http://a.example.com/x, plain: true, secret: env:A}}}": "1:23: "
    "audit.sinks.siem: whoever is on the way there could read its secret: take https",
    "audit: {sinks: {siem: {http: https://u:p@a.example.com}}}": "1:30: audit.sinks.siem.http: no "
    "secret stands in a URL: put it under `secret:`, as a reference",
    "audit: {sinks: {siem: {otlp: https://a.example.com/xK29fjq0zPqmLw82nVbT4yHs}}}": "1:30: "
    "audit.sinks.siem.otlp: looks like it holds a secret; put it under `secret:` as a reference, "
    "such as env:SIEM_TOKEN",
    "audit: {sinks: {siem: {http: https://a.example.com, secrt: env:A}}}": "1:53: "
    "audit.sinks.siem.secrt: unknown key; did you mean `secret`? known: batch, ca, format, http, "
    "plain, secret",
    "audit: {sinks: {sys: {syslog: '127.0.0.1:514'}}}": "1:31: audit.sinks.sys.syslog: a syslog "
    "server is written as udp://127.0.0.1:514, tcp://HOST:PORT, tls://HOST:PORT or unix:/dev/log",
    "audit: {sinks: {sys: {syslog: 'udp://logs.example.com:514'}}}": "1:22: audit.sinks.sys: "
    "whoever is on the way there could read the record: take tls://, or add `plain: true` if the "
    "way is a network of its own",
    "audit: {sinks: {copy: {file: .agents/audit/00000001.jsonl}}}": "1:30: audit.sinks.copy.file: "
    "is inside the state, where only Bandmaster writes; name a file elsewhere",
    "audit: {sinks: {copy: {file: '{sate}/x'}}}": "1:30: audit.sinks.copy.file: unknown "
    "placeholder `sate`; known: {python}, {project}, {state}",
    "audit: {sinks: {a: {file: x}, b: {file: ./x}}}": "1:41: audit.sinks.b.file: is the file of "
    "`a` too; name another one",
    "notify: {ops: {command: ['{projct}/page']}}": "1:26: notify.ops.command[0]: unknown "
    "placeholder `projct`; known: {python}, {project}, {state}",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_each_mistake_is_told_with_its_place(text: str, root: Path, complaints: Complaints) -> None:
    """Each mistake in the settings has one message, with line and column."""
    (root / "agents.yaml").write_text(f"{text}\n")
    assert complaints() == [f"agents.yaml:{MISTAKES[text]}"]


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("127.1.2.3:80", "127.1.2.3", 80),
        ("'[::1]:8700'", "::1", 8700),
        ("localhost:9", "127.0.0.1", 9),
    ],
)
def test_this_machine_s_own_addresses(tmp_path: Path, listen: str, host: str, port: int) -> None:
    """Every loopback address is taken, and port 0 means any free one."""
    (tmp_path / "agents.yaml").write_text(f"listen: {listen}\n")
    assert load_settings(tmp_path).address == (host, port)


def test_all_settings(tmp_path: Path) -> None:
    """Each key is read; places are relative to the project unless absolute."""
    (tmp_path / "agents.yaml").write_text(
        "hosts: [agents.example.com, 'x:443']\norigins: [https://console.example.com]\n"
        "state: ../state\nrun: /run/user/0/x\nlog_level: debug\n"
    )
    settings = load_settings(tmp_path)
    assert settings.hosts == ("agents.example.com", "x:443")
    assert settings.origins == ("https://console.example.com",)
    assert state_directory(tmp_path, settings) == tmp_path.parent / "state"
    assert run_directory(tmp_path, settings) == Path("/run/user/0/x")


def test_a_dangling_settings_file_is_no_missing_one(tmp_path: Path) -> None:
    """A link to nothing is an error: somebody meant to have settings."""
    (tmp_path / "agents.yaml").symlink_to(tmp_path / "nothing")
    with pytest.raises(RoleFileError, match=r"agents\.yaml: cannot be read; no such file"):
        load_settings(tmp_path)


def test_paths_of_sockets_have_a_limit() -> None:
    """A path that the system would not take is told with its length and the way out."""
    check_socket_paths(Path("/run/user/1000/bandmaster"), [WorkloadName("a.b.g1")])
    check_socket_paths(Path("/" + "x" * 77))
    with pytest.raises(SettingsError) as caught:
        check_socket_paths(Path("/" + "x" * 70 + "/project/.agents/run"))
    assert "has a path of 107 bytes; the system allows 94" in str(caught.value)
    assert "Set `run:` in agents.yaml to a short directory" in str(caught.value.hint)
    assert "/project." in str(caught.value.hint)
    with pytest.raises(SettingsError, match=r"seats/role\.server\.g999999/seat\.sock"):
        check_socket_paths(Path("/" + "x" * 75), [WorkloadName("role.server.g1")])
