"""The machine: its processor, its cores, its GPU."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import joblib


def has_gpu() -> bool:
    """Say whether an NVIDIA GPU answers, without importing a library that would use it."""
    return bool(gpu())


def gpu() -> str:
    """Return the names of the NVIDIA GPUs that answer; empty if there are none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    done = subprocess.run([command, "-L"], capture_output=True, text=True)
    names = re.findall(r"^GPU \d+: (.*?)(?: \(UUID.*)?$", done.stdout, re.MULTILINE)
    return ", ".join(names) if done.returncode == 0 else ""


def cores() -> int:
    """Return how many cores this process may use, which a container may limit."""
    cores: int = joblib.cpu_count()
    return cores


def machine() -> str:
    """Describe the processor and whether there is a GPU; measured times depend on both."""
    return f"{processor()}, NVIDIA GPU" if has_gpu() else processor()


def multiplies_bfloat16() -> bool:
    """Say whether the processor multiplies numbers of bfloat16 (with AVX-512 or AMX)."""
    cpuinfo = _cpuinfo()
    return "avx512_bf16" in cpuinfo or "amx_bf16" in cpuinfo


def processor() -> str:
    """Describe the processor: its cores, its name, and whether it has AVX-512."""
    cpuinfo = _cpuinfo()
    named = re.search(r"model name\s*: (.*)", cpuinfo)
    name = named.group(1) if named else platform.processor() or platform.machine()
    # A virtual machine may hide AVX-512, so two machines with one processor name can differ.
    avx512 = " with AVX-512" if "avx512f" in cpuinfo else ""
    return f"{cores()} cores of {name}{avx512}"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ""
