"""What the benchmarks say of the machine they ran on, and how they print a table."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "pillow")


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
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def memory_of(process="self"):
    """Return the MB of memory of its own (RssAnon) of a process; 0.0 if unknown."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.M)
    return int(found[1]) / 1024 if found else 0.0


def _processor():
    try:
        listed = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", listed, re.M)
    return found[1].strip() if found else platform.machine()
