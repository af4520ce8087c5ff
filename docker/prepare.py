"""Make the user `mcp` and the directories it owns; take away what installs packages."""
# ruff: noqa: INP001 # a program that runs while an image is built, no package

import os
import shutil
import sys
import sysconfig
from pathlib import Path

UID = 10001

users = Path("/etc/passwd")
if "\nmcp:" not in users.read_text():
    with users.open("a") as lines:
        lines.write(f"mcp:x:{UID}:{UID}:mcp:/home/mcp:/bin/sh\n")
    with Path("/etc/group").open("a") as lines:
        lines.write(f"mcp:x:{UID}:\n")
for place in ("/home/mcp", *sys.argv[1:]):
    Path(place).mkdir(0o700, parents=True, exist_ok=True)
    os.chown(place, UID, UID)
library = Path(sysconfig.get_path("purelib"))
for name in ("pip", "setuptools", "wheel"):
    for place in (library / name, *library.glob(f"{name}-*.dist-info")):
        shutil.rmtree(place, ignore_errors=True)
shutil.rmtree(Path(sysconfig.get_path("stdlib")) / "ensurepip", ignore_errors=True)
for program in Path("/usr/local/bin").glob("pip*"):
    program.unlink()
