"""The key of the project's own vault, while there is none yet."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from orchestrator.rotation.vaults.encrypted import load_key

THREADS = 8


def test_all_who_need_the_first_key_at_once_get_the_same(tmp_path: Path) -> None:
    """One key is made, however many roles have their first credential sealed at the same time."""
    for number in range(20):
        path, start = tmp_path / f"{number}.key", Barrier(THREADS)

        def load(path: Path = path, start: Barrier = start) -> bytes:
            _ = start.wait(30)
            return load_key(path, tmp_path / "vault")

        with ThreadPoolExecutor(THREADS) as pool:
            keys = {each.result(30) for each in [pool.submit(load) for _ in range(THREADS)]}
        assert keys == {path.read_bytes()}
