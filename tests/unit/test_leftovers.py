"""What a process that was killed left half written is removed, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

from orchestrator.control.state import StateFile
from orchestrator.files import remove_leftovers, write_atomically
from orchestrator.model.names import AgentName
from orchestrator.model.rotation import AgentRotation, Delivery, RotationRule
from orchestrator.model.workload import WorkloadSpec
from orchestrator.paths import Paths
from orchestrator.wiring.leftovers import sweep

KILLED = """
import os, sys
from orchestrator import files
os.fsync = lambda _: os.kill(os.getpid(), 9)
from pathlib import Path
files.write_atomically(Path(sys.argv[1]), b"half a secret")
"""


def leave(path: Path) -> Path:
    """Have a process killed while it replaces a file; tell what it left."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}){KILLED}"
    done = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert done.returncode == -9
    (left,) = path.parent.glob(f".{path.name}.*.tmp")
    assert left.read_bytes() == b"half a secret"
    return left


def test_a_killed_writer(tmp_path: Path) -> None:
    """Its half written file goes; those of live processes, links and other names stay."""
    left = leave(tmp_path / "token")
    own = tmp_path / f".token.{os.getpid()}.tmp"
    others = [
        tmp_path / name
        for name in (f".token.{os.getppid()}.tmp", ".token.1.tmp", ".token.x.tmp", "token.9.tmp")
    ]
    for path in (own, *others):
        write_atomically(path, b"x")
    link = tmp_path / ".link.999999999.tmp"
    link.symlink_to(others[0])
    folder = tmp_path / ".folder.999999999.tmp"
    folder.mkdir()
    assert remove_leftovers(tmp_path, ("other",)) == 0
    assert remove_leftovers(tmp_path, ("token",)) == 2
    assert not left.exists()
    assert not own.exists()
    assert set(tmp_path.iterdir()) == {link, folder, *others}
    assert remove_leftovers(tmp_path) == 0
    assert remove_leftovers(tmp_path / "missing") == 0


def test_where_a_daemon_looks(tmp_path: Path) -> None:
    """In all of the state but what servers have there, and beside the tokens of agents."""
    paths = Paths(tmp_path, tmp_path / "state", tmp_path / "run")
    away = tmp_path / "away"
    for folder in (paths.vault / "treasury", paths.home_of("treasury"), paths.run, away):
        folder.mkdir(parents=True)
    gone = [
        leave(paths.vault / "treasury" / "bm-treasury-1"),
        leave(paths.run / "supervisord.conf"),
        leave(away / "token"),
        leave(away / ".token.old"),
    ]
    stay = [leave(paths.home_of("treasury") / "theirs"), leave(away / "theirs")]
    rule = RotationRule(
        agent=AgentRotation(deliver={AgentName("claude"): Delivery(file=f"{away}/token")})
    )
    state = StateFile(paths.control_state)
    spec = WorkloadSpec.model_construct(rotation=rule)
    state.state = state.state.model_copy(update={"roles": {"treasury": spec}})
    assert sweep(paths, state) == len(gone)
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stay)
