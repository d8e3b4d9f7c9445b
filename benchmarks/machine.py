"""What the benchmarks say of the machine they ran on."""

import os
import platform
import re
from pathlib import Path

from dcgan.runs import folder


def describe_machine():
    """Return one line: processor, cores, what else runs there, system, Python."""
    parts = [_processor(), f"{cores()} cores"]
    if hasattr(os, "getloadavg"):
        parts.append(f"load before {os.getloadavg()[0]:.1f}")
    parts.append(f"{platform.system()} {platform.release()}")
    return ", ".join([*parts, f"Python {platform.python_version()}"])


def cores():
    """Return how many cores this process may use, where the system tells."""
    return len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0))


def versions():
    """Return one line: the versions of the packages that are installed."""
    installed = folder.versions()
    del installed["commit"]
    return ", ".join(f"{name} {version}" for name, version in installed.items())


def memory_of(process="self"):
    """Return the MB of memory of its own (RssAnon) of a process; 0.0 if unknown."""
    line = re.search(r"^RssAnon:\s+(\d+) kB", _read(f"/proc/{process}/status"), re.M)
    return int(line[1]) / 1024 if line else 0.0


def _processor():
    line = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.M)
    return line[1].strip() if line else platform.processor() or platform.machine()


def _read(path):
    """Return what a file of the system says, or "" where there is none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""
