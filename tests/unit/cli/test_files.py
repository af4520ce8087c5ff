"""`agents init` and `agents validate`."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from orchestrator.cli.files import init, validate
from orchestrator.config.stock import stock_files
from orchestrator.errors import RoleFileError, SettingsError

Captured = pytest.CaptureFixture[str]
TOLD = TypeAdapter(dict[str, bool | str | list[dict[str, str | list[str]]]])


def test_init_writes_a_whole_project(root: Path, capsys: Captured) -> None:
    """Every stock file is written as it is, readable, and the result is a sound project."""
    init(root / "new")
    for name, content in stock_files().items():
        assert (root / "new" / name).read_bytes() == content
        assert (root / "new" / name).stat().st_mode & 0o777 == 0o644
    assert capsys.readouterr().out.splitlines()[-1] == "Next: agents up"
    validate(root / "new", None, as_json=False)
    assert "treasury: wallet, read, prepare, 10 tools" in capsys.readouterr().out


def test_init_never_overwrites(root: Path, capsys: Captured) -> None:
    """What is there stays as it is, whatever it is, and is told."""
    (root / "roles").mkdir()
    _ = (root / "roles/treasury.yaml").write_text("mine")
    (root / "roles/monitoring.yaml").symlink_to(root / "nowhere")
    (root / ".gitignore").mkdir()
    init(root)
    assert (root / "roles/treasury.yaml").read_text() == "mine"
    assert (root / "roles/monitoring.yaml").is_symlink()
    assert not (root / "nowhere").exists()
    assert (root / ".gitignore").is_dir()
    lines = capsys.readouterr().out.splitlines()
    kept = [line.split()[1] for line in lines if line.startswith("kept")]
    assert sorted(kept) == [".gitignore", "roles/monitoring.yaml", "roles/treasury.yaml"]
    init(root)
    assert "wrote" not in capsys.readouterr().out


def test_init_where_nothing_can_be_written(root: Path) -> None:
    """A place that cannot be used is named with its reason."""
    _ = (root / "roles").write_text("a file")
    with pytest.raises(SettingsError, match="cannot be written"):
        init(root)


def test_validate_tells_programs(project: Path, capsys: Captured) -> None:
    """With JSON every role comes with its bands and tools."""
    validate(project, None, as_json=True)
    told = TOLD.validate_json(capsys.readouterr().out)
    assert told["valid"] is True
    assert isinstance(told["roles"], list)
    counts = {str(role["role"]): len(role["tools"]) for role in told["roles"]}
    assert counts == {"executor": 13, "monitoring": 7, "treasury": 10}
    assert not (project / ".agents").exists()


@pytest.mark.parametrize("name", ["bootstrap", "bootstrap-wallet", "agentsd", "engine"])
def test_names_of_our_own_parts_are_taken(project: Path, name: str) -> None:
    """A role cannot share an instance, a home or a log with a part of Bandmaster."""
    text = (project / "roles/treasury.yaml").read_text()
    _ = (project / f"roles/{name}.yaml").write_text(text.replace("treasury\n", f"{name}\n", 1))
    with pytest.raises(RoleFileError, match="is the name of a part of Bandmaster"):
        validate(project, None, as_json=False)
