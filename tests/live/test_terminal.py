# SPDX-License-Identifier: Apache-2.0
"""Programs whose terminal is outside of the tree, restored into another one: shells, a REPL, editors."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.harness import Restorer, descendants, status, still_running, wait_until
from tests.live.terminal import END_OF_FILE, INTERRUPT, SUSPEND, Terminal

IN, OUT = "inner> ", "outer> "
MODES = ["same", "ns"]


@pytest.fixture
def before(cleanup: None) -> Iterator[Terminal]:
    """Where a program was started."""
    with Terminal(24, 80) as terminal:
        yield terminal


@pytest.fixture
def after(cleanup: None) -> Iterator[Terminal]:
    """Where it is restored."""
    with Terminal(30, 100) as terminal:
        yield terminal


def wait_for_text(file: Path, text: str) -> None:
    wait_until(lambda: file.exists() and file.read_text() == text, f"{text!r} in {file.name}")


def shell_with_jobs(terminal: Terminal, folder: Path) -> None:
    """In a bash that shows its prompt: one job runs, two are stopped."""
    terminal.ask(f"cd {folder}; secret=60493", IN)
    terminal.ask("sleep 1000 &", IN)
    for name in ("one", "two"):
        terminal.type(f"cat > {name}\n{name} first\n")
        wait_for_text(folder / name, f"{name} first\n")
        terminal.type(SUSPEND)
        terminal.until(IN)


def check_jobs(terminal: Terminal, folder: Path) -> None:
    """Variables, all jobs, both stopped ones in the foreground again, ^C, and a new job."""
    assert terminal.ask("echo $secret", IN) == ["60493"]
    assert terminal.ask("jobs", IN) == [
        "[1] Running sleep 1000 &",
        "[2]- Stopped cat > one",
        "[3]+ Stopped cat > two",
    ]
    for number, name in ((2, "one"), (3, "two")):
        terminal.type(f"fg %{number}\n{name} second\n")
        wait_for_text(folder / name, f"{name} first\n{name} second\n")
        terminal.type(END_OF_FILE)
        terminal.until(IN)
    terminal.type("bash -c 'echo up''now; exec sleep 1000'\n")
    terminal.until("upnow")
    terminal.type(INTERRUPT)
    terminal.until(IN)
    assert terminal.ask("echo $?", IN) == ["130"]
    assert terminal.ask("kill %1; wait %1; echo $?", IN)[-1] == "143"


def take(restorer: Restorer, pid: int) -> None:
    """Checkpoints the tree; all of it has ended and been reaped."""
    everybody = [pid, *descendants(pid)]
    restorer.checkpoint(pid)
    wait_until(lambda: not still_running(everybody), "the tree to end")


def restore_command(restorer: Restorer, *arguments: object) -> str:
    return " ".join(restorer.command("restore", "image", *arguments)) + "\n"


def stopped_job(terminal: Terminal) -> None:
    """The outer shell says that restore has stopped, and has its terminal."""
    terminal.until("Stopped")
    terminal.until(OUT)
    assert terminal.ask("jobs", OUT)[0].startswith("[1]+ Stopped")


def sees_size(terminal: Terminal, rows: int, columns: int) -> None:
    """bash draws its prompt again when it gets SIGWINCH."""
    terminal.until(IN)
    assert terminal.ask("echo $LINES $COLUMNS $(stty size)", IN) == [f"{rows} {columns} {rows} {columns}"]


def leave(terminal: Terminal, cooked: list[object]) -> None:
    """Ends both shells; the outer one sees the code, and the terminal as it was."""
    terminal.type("exit 5\n")
    terminal.until(OUT)
    assert terminal.modes() == cooked
    assert terminal.ask("echo $?", OUT) == ["5"]
    terminal.type("exit\n")


def pid_of_shell(terminal: Terminal) -> int:
    return int(terminal.ask("echo $$", IN)[0])


@pytest.mark.parametrize("mode", MODES)
def test_shell_that_leads_its_session(
    restorer: Restorer, before: Terminal, after: Terminal, workdir: Path, mode: str
) -> None:
    """It is a session as before, on a terminal of its own, as large as the new window."""
    started = before.shell(IN)
    shell_with_jobs(before, workdir)
    take(restorer, started.pid)
    outer = after.shell(OUT)
    cooked = after.modes()
    after.type(restore_command(restorer, "--pid", mode))
    sees_size(after, 30, 100)
    assert after.ask("echo $$ $(ps -o sid= -p $$)", IN) == [f"{started.pid} {started.pid}"]
    check_jobs(after, workdir)
    after.resize(40, 120)
    sees_size(after, 40, 120)
    assert after.ask("tty < /dev/tty", IN) == ["/dev/tty"]
    leave(after, cooked)
    assert outer.wait(20) == 0


@pytest.mark.parametrize("mode", MODES)
def test_shell_that_is_a_job(
    restorer: Restorer, before: Terminal, after: Terminal, workdir: Path, mode: str
) -> None:
    """It is a job of the shell that restore runs in, and stops with it."""
    shell = before.shell(OUT)
    before.type(f"PS1='{IN}' /bin/bash --norc --noprofile -i\n")
    before.until(f"\n{IN}")
    pid = pid_of_shell(before)
    shell_with_jobs(before, workdir)
    taken = [pid, *descendants(pid)]
    restorer.checkpoint(pid)
    before.until("Killed")
    before.until(OUT)
    before.type("exit\n")
    assert shell.wait(20) == 137
    wait_until(lambda: not still_running(taken), "the tree to end")

    outer = after.shell(OUT)
    cooked = after.modes()
    after.type(restore_command(restorer, "--pid", mode))
    sees_size(after, 30, 100)
    assert after.ask("echo $$; tty", IN) == [str(pid), after.name]
    after.type("suspend\n")
    stopped_job(after)
    assert after.ask("stty -a | grep -c '^isig icanon'", OUT) == ["1"]
    after.type("fg\n")
    after.until(IN)
    check_jobs(after, workdir)
    after.resize(40, 120)
    sees_size(after, 40, 120)
    leave(after, cooked)
    assert outer.wait(20) == 0


def is_in(pid: int, name: str) -> bool:
    """Whether the process is blocked in this system call."""
    number = {"read": 0, "clock_nanosleep": 230}[name]
    return Path(f"/proc/{pid}/syscall").read_text().startswith(f"{number} ")


class Repl:
    """python in a terminal, its line editor being in the middle of a line."""

    def __init__(self, terminal: Terminal, folder: Path) -> None:
        shell = folder / "tell"
        shell.write_text(f"#!/bin/sh\necho $$ > {folder}/pid\nexec {shutil.which('python3')} -q -i\n")
        shell.chmod(0o755)
        self.pidfile = folder / "pid"
        terminal.type(f"{shell}\n")
        terminal.until(">>> ")
        terminal.type("held = 6\n")
        terminal.until(">>> ")
        terminal.type("held *")
        terminal.until("held *")

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())


def test_python_in_the_middle_of_a_line(
    restorer: Restorer, before: Terminal, after: Terminal, workdir: Path
) -> None:
    """Its line editor finds the modes that it has set; Ctrl-Z, bg, fg; then the terminal is as it was."""
    before.shell(OUT)
    repl = Repl(before, workdir)
    take(restorer, repl.pid)
    outer = after.shell(OUT)
    cooked = after.ask("stty -a", OUT)
    after.type(restore_command(restorer))
    after.until("held *")
    after.type(" 7\n")
    assert "42" in after.until(">>> ")
    after.type("import time; time.sleep(1000)\n")
    after.until("\n")
    wait_until(lambda: is_in(repl.pid, "clock_nanosleep"), "python to sleep")
    after.type(SUSPEND)
    stopped_job(after)
    assert after.ask("stty -a", OUT) == cooked
    assert after.ask("bg; sleep 0.1; jobs", OUT)[-1].startswith("[1]+ Running")
    after.type("fg\n")
    wait_until(lambda: after.foreground != outer.pid, "bash to give the terminal to restore")
    after.type(INTERRUPT)
    after.until("KeyboardInterrupt")
    after.until(">>> ")
    after.type("held + 1\n")
    assert "7" in after.until(">>> ")
    after.type("exit(3)\n")
    after.until(OUT)
    assert after.ask("echo $?; stty -a", OUT) == ["3", *cooked]
    after.type("exit\n")
    assert outer.wait(20) == 0


def start_job(terminal: Terminal, folder: Path, command: str) -> int:
    """A command line in the foreground of an outer shell; its PID."""
    script = folder / "job"
    script.write_text(f"#!/bin/sh\necho $$ > {folder}/pid\nexec {command}\n")
    script.chmod(0o755)
    terminal.type(f"{script}\n")
    wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text() != "", "its PID")
    return int((folder / "pid").read_text())


@pytest.mark.skipif(shutil.which("less") is None, reason="less is not installed")
def test_less_draws_its_page_in_the_new_size(
    restorer: Restorer, before: Terminal, after: Terminal, workdir: Path
) -> None:
    (workdir / "text").write_text("".join(f"line-{number}.\n" for number in range(1, 1001)))
    before.shell(OUT)
    pid = start_job(before, workdir, f"less {workdir}/text")
    before.until("line-23.")
    before.type("500g")
    before.until("line-522.")
    take(restorer, pid)
    after.shell(OUT)
    after.type(restore_command(restorer))
    page = after.until("line-528.")
    assert "line-500." in page
    after.type(" ")
    after.until("line-557.")
    wait_until(lambda: is_in(pid, "read"), "less to wait for a key")
    after.type(SUSPEND)
    stopped_job(after)
    after.type("fg\n")
    after.until("line-557.")
    after.type("q")
    after.until(OUT)
    assert after.ask("echo $?", OUT) == ["0"]


@pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed")
def test_vim_with_unsaved_text(restorer: Restorer, before: Terminal, after: Terminal, workdir: Path) -> None:
    file = workdir / "edited"
    before.shell(OUT)
    pid = start_job(before, workdir, f"vim -N -u NONE -n {file}")
    before.until("[New")
    before.type("ibegun")
    before.until("begun")
    take(restorer, pid)
    after.shell(OUT)
    after.type(restore_command(restorer))
    after.until("begun")
    after.type(" and ended\x1b:wq\n")
    after.until(OUT)
    assert file.read_text() == "begun and ended\n"


def session(restorer: Restorer, before: Terminal) -> int:
    """An image of a shell that leads its session; its PID."""
    started = before.shell(IN)
    before.ask("secret=60493", IN)
    take(restorer, started.pid)
    return started.pid


def test_session_is_not_restored_detached(restorer: Restorer, before: Terminal) -> None:
    session(restorer, before)
    assert "needs a terminal" in restorer.fails("restore", "image", "-d", code=125)


def test_session_without_a_terminal_around(restorer: Restorer, before: Terminal) -> None:
    """Its input is typed for it, and the end of it is Ctrl-D."""
    session(restorer, before)
    with restorer.foreground("image", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(b"echo $((secret + 1)); tty | cut -c-9\n", timeout=30)
        assert process.returncode == 0
    assert b"60494\r\n/dev/pts/\r\n" in output


def test_window_is_closed(restorer: Restorer, before: Terminal, after: Terminal, workdir: Path) -> None:
    """Who restores leads the session of the window; what hangs up is the restored terminal too."""
    script = f"trap 'echo hung up > {workdir}/hangup; exit' HUP; while read line; do echo got $line; done"
    started = before.run("/bin/sh", "-c", script)
    before.type("one\n")
    before.until("got one")
    take(restorer, started.pid)
    process = after.run(*restorer.command("restore", "image"))
    after.type("two\n")
    after.until("got two")
    after.close()
    process.wait(20)
    wait_until(lambda: not still_running([started.pid]), "the shell to end")
    assert (workdir / "hangup").read_text() == "hung up\n"


def test_restored_in_the_background(restorer: Restorer, before: Terminal, after: Terminal) -> None:
    """It waits for the terminal as any job that wants to read from it."""
    session(restorer, before)
    after.shell(OUT)
    cooked = after.ask("stty -a", OUT)
    after.ask(f"{restore_command(restorer).strip()} &", OUT)
    wait_until(lambda: any("Stopped" in line for line in after.ask("jobs", OUT)), "restore to stop")
    assert after.ask("stty -a", OUT)[-len(cooked) :] == cooked
    after.type("fg\n")
    after.until(IN)
    assert "60493" in after.ask("echo $secret", IN)
    launcher = int(after.ask("ps -o ppid= -p $$", IN)[0])
    os.kill(launcher, signal.SIGTSTP)
    stopped_job(after)
    assert after.ask("stty -a", OUT) == cooked
    after.type("fg\n")
    wait_until(lambda: after.is_raw, "restore to go on")
    assert "60493" in after.ask("echo $secret", IN)
    after.type("exit\n")
    after.until(OUT)


def test_terminals_of_two_sessions_are_refused(restorer: Restorer, before: Terminal, after: Terminal) -> None:
    outer = before.shell(IN)

    def runs() -> bool:
        return "sleep" in [status(pid, "Name") for pid in descendants(outer.pid)]

    before.type(f"sh -c 'setsid -c sleep 1000 < {after.name}; true' &\n")
    before.until(IN)
    wait_until(runs, "the second session")
    message = restorer.fails("checkpoint", outer.pid, "image")
    assert "have terminals that are held outside" in message
    assert before.ask("echo alive", IN)[-1] == "alive"
