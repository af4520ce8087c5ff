"""Files that decide what runs are trusted by what others may do to them, not by how they look."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator import files

_TRY = """\
set -e
mount --bind "$1/theirs" "$1/shown"
mount -o remount,ro,bind "$1/shown"
exec "$2" -c '
import sys
from pathlib import Path
from orchestrator.config.yamlfile import read_yaml
read_yaml(Path(sys.argv[1]), "roles/a.yaml")
' "$1/shown/a.yaml"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes mounts")
@pytest.mark.skipif(
    Path("/proc/self/ns/pid").stat().st_ino != files._MACHINE,
    reason="in a container, mounts that nobody writes are trusted",
)
def test_a_file_that_its_owner_writes_elsewhere_is_refused() -> None:
    """A read-only view of another user's file is no promise that it stays what it is."""
    top = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    try:
        for name in ("theirs", "shown"):
            (top / name).mkdir()
        file = top / "theirs" / "a.yaml"
        _ = file.write_text("role: a\n")
        for path in (file, file.parent):
            os.chown(path, 4711, 4711)
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", _TRY, "sh", str(top), sys.executable],
            cwd=Path(files.__file__).parents[1],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        shutil.rmtree(top)
    if "mount" in done.stderr and "permission denied" in done.stderr.lower():
        pytest.skip("root may not make mounts here")
    assert "user 4711, may write it" in done.stderr, done.stderr
    assert done.returncode
