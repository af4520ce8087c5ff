"""Logs of instances do not grow without end."""

from pathlib import Path

from orchestrator.runtimes.logs import rotate


def test_a_log_below_its_limit_is_left_alone(tmp_path: Path) -> None:
    """Neither a small log nor one that is not there is touched."""
    log = tmp_path / "role.log"
    assert not rotate(log, limit=10)
    _ = log.write_text("0123456789")

    assert not rotate(log, limit=10)
    assert [path.name for path in tmp_path.iterdir()] == ["role.log"]


def test_a_large_log_is_kept_beside_and_emptied(tmp_path: Path) -> None:
    """A writer that has the log open for appending goes on at its new beginning."""
    log = tmp_path / "role.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(5):
            _ = writer.write(b"%d" % number * 20)
            assert rotate(log, limit=10, kept=3)
        _ = writer.write(b"new")

    assert log.read_text() == "new"
    kept = {path.name: path.read_text()[0] for path in tmp_path.glob("role.log.*")}
    assert kept == {"role.log.1": "4", "role.log.2": "3", "role.log.3": "2"}
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o600 for name in kept)


def test_a_log_that_its_writer_made_huge_costs_no_disk(tmp_path: Path) -> None:
    """Of a log that is longer than any disk only the end is kept, whatever it looks like."""
    log = tmp_path / "role.log"
    _ = log.write_bytes(b"begin")
    with log.open("r+b") as writer:
        _ = writer.seek(2**40)
        _ = writer.write(b"end")

    assert rotate(log, limit=10)

    assert log.stat().st_size == 0
    assert (tmp_path / "role.log.1").read_bytes() == bytes(37) + b"end"
