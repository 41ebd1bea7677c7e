"""Which process is the server: started anywhere, forked, closed and served again. Each is a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ASKS = "print(live.get_stats()['active_connections'], flush=True)"


def environment(folder: Path, **more: str) -> dict[bytes, bytes]:
    """With a temporary folder in which there is something of somebody else."""
    (folder / "somebodys.sqlite").write_text("precious")
    words = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT), **more}
    return {os.fsencode(name): os.fsencode(value) for name, value in words.items()}


def told(folder: Path, *lines: str, cwd: Path | None = None, **more: bytes) -> list[str]:
    """What a program prints; what is in the temporary folder of other people is still there."""
    code = "\n".join(["import os, time", "from exporter import Live, LockedLive", *map(textwrap.dedent, lines)])
    given = environment(folder) | {os.fsencode(name): value for name, value in more.items()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=400, env=given, cwd=cwd)
    assert done.returncode == 0, done.stderr.decode()
    assert (folder / "somebodys.sqlite").exists()
    return done.stdout.decode().split()


def processes(
    folder: Path, code: str, *environments: dict[bytes, bytes]
) -> AbstractContextManager[list[subprocess.Popen[str]]]:
    """Several of one program, which differ in nothing else."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return started(*({"args": command, "cwd": folder, "env": given} for given in environments))


@contextmanager
def started(*commands: Mapping[str, Any]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes, as ``Popen`` takes them; killed at the end, with whatever they have forked."""
    running = [
        subprocess.Popen(**command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        for command in commands
    ]
    try:
        yield running
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def line(process: subprocess.Popen[str], say: str = "") -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(say)
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_whoever_says_that_there_are_several_workers_is_believed(tmp_path: Path) -> None:
    assert told(tmp_path, "live = Live(workers=2)", "live.open('ann')", ASKS) == ["None"]
    assert list(tmp_path.iterdir()) == [tmp_path / "somebodys.sqlite"], "and nothing is looked for"


def test_nothing_that_a_host_is_started_with_has_to_be_text(tmp_path: Path) -> None:
    assert told(tmp_path, "live = Live()", "live.open('ann')", ASKS, NAME=b"Andr\xe9") == ["1"]


def test_the_working_directory_may_have_been_removed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    assert told(tmp_path, "os.rmdir(os.getcwd())", "live = Live()", "live.open('ann')", ASKS, cwd=gone) == ["1"]


def test_what_a_host_tells_at_its_end_is_known(tmp_path: Path) -> None:
    """The one that is registered first is called last."""
    last = "import atexit; atexit.register(lambda: print(live.get_stats()['active_connections']))"
    assert told(tmp_path, last, "live = Live()", "live.open('ann')") == ["1"]
    assert list(tmp_path.iterdir()) == [tmp_path / "somebodys.sqlite"]


def test_without_a_temporary_folder_a_host_starts(tmp_path: Path) -> None:
    none = """
        import tempfile
        def none():
            raise FileNotFoundError("No usable temporary directory found")
        tempfile.gettempdir = none
    """
    assert told(tmp_path, none, "live = Live()", "live.open('ann')", ASKS) == ["1"]


def test_children_of_a_process_that_was_asked_before_are_several(tmp_path: Path) -> None:
    children = """
        live = Live()
        live.get_stats()
        here, opened, answered = os.pipe(), os.pipe(), os.pipe()
        def meet(go):
            os.write(here[1], b".")
            os.read(go[0], 1)
        for number in range(2):
            if os.fork() == 0:
                live.open(str(number))
                meet(opened)
                os.write(1, f"{live.get_stats()['active_connections']}\\n".encode())
                meet(answered)
                os._exit(0)
        for go in opened, answered:
            os.read(here[0], 1), os.read(here[0], 1)
            os.write(go[1], b"..")
        os.wait(), os.wait()
    """
    assert told(tmp_path, children) == ["None", "None"]


def test_a_child_that_only_refuses_is_one_of_several(tmp_path: Path) -> None:
    """As a worker of gunicorn --preload that is full."""
    children = """
        live = Live()
        live.asgi()
        refused, answered = os.pipe(), os.pipe()
        if os.fork() == 0:
            live.reject("capacity")
            os.write(refused[1], b".")
            os.read(answered[0], 1)
            os._exit(0)
        os.read(refused[0], 1)
        if os.fork() == 0:
            os.write(1, f"{live.is_alone()}".encode())
            os._exit(0)
        os.wait()
        os.write(answered[1], b".")
        os.wait()
    """
    assert told(tmp_path, children) == ["False"]


def test_a_child_that_lives_on_is_not_its_parent(tmp_path: Path) -> None:
    code = """
        import os, sys, time
        from exporter import Live
        live = Live()
        live.asgi()
        print(live.is_alone(), flush=True)
        if (child := os.fork()) == 0:
            os.close(1)
            time.sleep(600)
        print(child, flush=True)
        sys.stdin.read()
    """
    for _ in range(2):
        given = environment(tmp_path)
        first = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=given, cwd=tmp_path,
        )  # fmt: skip
        alone, child = line(first), int(line(first))
        try:
            first.kill()
            first.communicate()
            assert alone == "True"
            with processes(tmp_path, code, given) as (again,):
                assert line(again) == "True", "the one before has ended, and its child is no server"
        finally:
            os.kill(child, signal.SIGKILL)


def test_processes_of_one_supervisor_on_one_socket_are_several(tmp_path: Path) -> None:
    code = """
        import sys
        from exporter import Live
        live = Live()
        live.asgi()
        for _ in sys.stdin:
            print(live.is_alone(), flush=True)
    """
    for names in (["SUPERVISOR_PROCESS_NAME"], ["SANIC_WORKER_NAME", "SANIC_WORKER_IDENTIFIER"]):
        both = [environment(tmp_path, **dict.fromkeys(names, f"worker-{number}")) for number in range(2)]
        with processes(tmp_path, code, *both) as (first, second):
            line(first, "\n"), line(second, "\n")
            assert [line(first, "\n"), line(second, "\n")] == ["False", "False"]
    other = [environment(tmp_path, PORT=f"800{number}") for number in range(2)]
    with processes(tmp_path, code, *other) as (first, second):
        line(first, "\n"), line(second, "\n")
        assert [line(first, "\n"), line(second, "\n")] == ["True", "True"]


@pytest.mark.parametrize("apart", ["folder", "arguments", "parent"])
def test_servers_that_were_started_otherwise_are_servers_of_their_own(tmp_path: Path, apart: str) -> None:
    code = """
        import sys
        from exporter import Live
        live = Live()
        live.asgi()
        for _ in sys.stdin:
            print(live.is_alone(), flush=True)
    """
    commands = []
    for number in ("1", "2"):
        folder = tmp_path / (number if apart == "folder" else "of both")
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-c", textwrap.dedent(code), number if apart == "arguments" else "of both"]
        if apart == "parent":
            command = ["/bin/sh", "-c", '"$@"; exit', "sh", *command]
        commands.append({"args": command, "cwd": folder, "env": environment(tmp_path)})
    with started(*commands) as (first, second):
        line(first, "\n"), line(second, "\n")
        assert [line(first, "\n"), line(second, "\n")] == ["True", "True"]


def test_workers_that_set_something_for_themselves_are_several(tmp_path: Path) -> None:
    code = """
        import os, sys, tempfile
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()
        os.environ["PORT"] = str(os.getpid())
        from exporter import Live
        live = Live()
        live.asgi()
        for _ in sys.stdin:
            print(live.is_alone(), flush=True)
    """
    with processes(tmp_path, code, *[environment(tmp_path, PORT="8000")] * 2) as (first, second):
        line(first, "\n"), line(second, "\n")
        assert [line(first, "\n"), line(second, "\n")] == ["False", "False"]


def test_processes_of_pytest_xdist_have_servers_of_their_own(tmp_path: Path) -> None:
    code = """
        import os, time
        from pathlib import Path
        from exporter import Live

        def test_alone() -> None:
            live = Live()
            live.asgi()
            Path(os.environ["PYTEST_XDIST_WORKER"]).touch()
            end = time.monotonic() + 30
            while len(list(Path().glob("gw*"))) < 2 and time.monotonic() < end:
                time.sleep(0.01)
            assert len(list(Path().glob("gw*"))) == 2
            assert live.is_alone()
    """
    for name in ("test_one.py", "test_other.py"):
        (tmp_path / name).write_text(textwrap.dedent(code))
    ask = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider"]
    done = subprocess.run(ask, cwd=tmp_path, capture_output=True, text=True, timeout=400, env=environment(tmp_path))
    assert "2 passed" in done.stdout, done.stdout


def test_what_the_killed_have_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = """
        import sys
        from exporter import Live
        pages = Live().asgi()
        print(flush=True)
        sys.stdin.read()
    """
    for number in range(3):
        with processes(tmp_path, code, environment(tmp_path, NUMBER=str(number))) as (process,):
            line(process)
            assert len(list(tmp_path.glob("messaging-exporter-*"))) == 1


def test_what_only_looks_like_a_dead_group_s_is_left_alone(tmp_path: Path) -> None:
    prefix = f"messaging-exporter-{os.getuid()}-"
    elsewhere, backup, noted = tmp_path / "elsewhere", tmp_path / f"{prefix}backup", tmp_path / f"{prefix}{'a' * 16}"
    for folder in (elsewhere, backup, noted):
        folder.mkdir()
    kept = [elsewhere / "1.txt", backup / "1.txt", noted / "notes.txt"]
    for path in kept:
        path.touch()
    (tmp_path / f"{prefix}{'b' * 16}").symlink_to(elsewhere)
    assert told(tmp_path, "live = Live()", "live.open('ann')", ASKS) == ["1"]
    assert all(path.exists() for path in kept)


def test_a_lock_that_was_held_at_a_fork_is_free_in_the_child(tmp_path: Path) -> None:
    code = """
        import signal, threading
        live = LockedLive(workers=1)
        held, end = threading.Event(), threading.Event()
        def scrape():
            with live.lock:
                held.set()
                end.wait()
        threading.Thread(target=scrape).start()
        held.wait()
        if (child := os.fork()) == 0:
            signal.alarm(20)
            live.open("ann")
            os._exit(0)
        print(os.waitpid(child, 0)[1])
        end.set()
    """
    assert told(tmp_path, code) == ["0"]
