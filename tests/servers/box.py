"""Makes an image of this interpreter and the programs beside this one, and prints its id.

In it they have the same paths as outside, so that the same command line runs in both. One that was
made of the same files is taken as it is.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASE = "bandmaster-base:test"
DOCKERFILE = f"FROM {BASE}\nCOPY box/ /\n"


def docker(*words: str, given: bytes | None = None) -> str:
    """Run the engine's client."""
    done = subprocess.run(["docker", *words], input=given, check=True, capture_output=True)
    return done.stdout.decode().strip()


def context() -> bytes:
    """Make what the image is built from: files, and a link where the interpreter is outside."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as box:
        texts = {"Dockerfile": DOCKERFILE.encode()}
        for path in sorted(HERE.glob("*.py")):
            texts[f"box{path}"] = path.read_bytes()
        for name, content in texts.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            box.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo(f"box{sys.executable}")
        link.type, link.linkname = tarfile.SYMTYPE, "/usr/local/bin/python3"
        box.addfile(link)
    return out.getvalue()


def main() -> None:
    """Make it, and say which."""
    script = HERE.parents[1] / "scripts" / "base-image"
    _ = subprocess.run([sys.executable, str(script), BASE], check=True, capture_output=True)
    given = context()
    mark = hashlib.sha256(given + docker("inspect", "-f", "{{.Id}}", BASE).encode())
    tag = f"bandmaster-tests:{mark.hexdigest()[:12]}"
    if not docker("images", "-q", tag):
        _ = docker("build", "-q", "-t", tag, "-", given=given)
    print(docker("inspect", "-f", "{{.Id}}", tag))  # noqa: T201 - whoever starts it reads it


main()
