"""The daemon's log when nobody reads standard error any more."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
import structlog
from orchestrator.cli.daemon_log import configure_log

configure_log("info", Path(sys.argv[1]))
log = structlog.get_logger("test")
log.info("first")
sys.stdin.readline()
log.info("second")
log.info("third")
print("alive", flush=True)
"""


def test_the_log_goes_on_in_its_file_when_the_engine_is_gone(tmp_path: Path) -> None:
    """After the reader of standard error has gone, lines go to the file, and nothing is raised."""
    path = tmp_path / "agentsd.log"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    assert b"first" in process.stderr.readline()
    process.stderr.close()
    _ = process.stdin.write(b"\n")
    process.stdin.close()
    assert process.stdout.read() == b"alive\n"
    process.stdout.close()
    _ = process.wait(30)

    lines = path.read_text().splitlines()
    assert [word in line for word, line in zip(("second", "third"), lines, strict=True)] == [
        True,
        True,
    ]
    assert path.stat().st_mode & 0o777 == 0o600
