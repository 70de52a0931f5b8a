# SPDX-License-Identifier: Apache-2.0
"""`make bench`: all measurements, or those named; RESTORER_BENCH_ROUNDS rounds of each (7)."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from bench import demand, first_reply, heap, recorded, resolve, resume, size, start
from bench.peer import peer_path

_MEASUREMENTS = {
    "start": start,
    "resume": resume,
    "reply": first_reply,
    "recorded": recorded,
    "size": size,
    "heap": heap,
    "demand": demand,
    "resolve": resolve,
}
_INSIDE = "RESTORER_BENCH_INSIDE"


def _with_tmpfs_on_run() -> None:
    """Run again in a mount namespace where /run is a tmpfs: CRIU keeps its kernel probes only there.

    Without, each of its runs probes anew and takes up to twice as long, which would flatter us.
    """
    unshare = shutil.which("unshare")
    if peer_path() is None or os.environ.get(_INSIDE) or unshare is None:
        return
    script = 'mount -t tmpfs tmpfs /run && exec "$@"'
    command = [unshare, "-m", "--propagation", "slave", "sh", "-c", script, "sh"]
    os.closerange(3, 1 << 16)  # CRIU refuses descriptors that lead out of what it dumps
    os.execve(unshare, [*command, sys.executable, "-m", "bench", *sys.argv[1:]], {**os.environ, _INSIDE: "1"})


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} x {cpu}, {memory_gb:.0f} GB, {system}"


def main() -> None:
    names = sys.argv[1:] or list(_MEASUREMENTS)
    unknown = [name for name in names if name not in _MEASUREMENTS]
    if unknown:
        sys.exit(f"bench: no measurement {unknown[0]!r}; there are {', '.join(_MEASUREMENTS)}")
    if os.geteuid() != 0:
        sys.exit("bench: restoring processes with their PIDs needs root")
    _with_tmpfs_on_run()
    rounds = int(os.environ.get("RESTORER_BENCH_ROUNDS", "7"))
    print(f"{_machine()}; medians of {rounds} rounds", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="restorer-bench-") as folder:
            try:
                text = _MEASUREMENTS[name].measure(Path(folder), rounds)
            except (RuntimeError, OSError) as error:
                sys.exit(f"bench {name}: {error}")
        print(f"\n{name}\n{text}", flush=True)


if __name__ == "__main__":
    main()
