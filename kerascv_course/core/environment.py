"""Machine, software versions and memory, and a quiet start of TensorFlow."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from kerascv_course._version import __version__
from kerascv_course.core.progress import Wait, shown_on

__all__ = [
    "core_count",
    "describe_command",
    "describe_environment",
    "describe_machine",
    "package_versions",
    "peak_memory",
    "processor_name",
    "quiet_stderr",
    "seconds_since_start",
    "source_commit",
    "start_keras",
    "start_tensorflow",
]

_IMPORTED = time.perf_counter()

PACKAGES = (
    "tensorflow",
    "keras",
    "jax",
    "onnx",
    "tf2onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "numpy",
    "pillow",
    "scikit-learn",
)


def package_versions() -> dict[str, str]:
    """Versions of this package, of Python and of the installed packages that results depend on."""
    versions = {"kerascv_course": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def describe_environment() -> dict[str, Any]:
    """Machine, versions, source commit, command and time, ready for JSON."""
    command = describe_command()
    return {
        "started": command["started"],
        "command": command["command"],
        "machine": describe_machine(),
        "versions": package_versions(),
        "commit": command["commit"],
    }


def describe_command() -> dict[str, Any]:
    """Time, command line and source commit."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    module = spec.name if spec else Path(sys.argv[0]).name
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", module.removesuffix(".__main__"), *sys.argv[1:]]),
        "commit": source_commit(),
    }


def describe_machine() -> dict[str, Any]:
    """System, processor, usable cores, and the GPUs that TensorFlow sees (JAX where it is Keras's backend)."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        gpus = [device.device_kind for device in jax.local_devices() if device.platform != "cpu"]
    else:
        import tensorflow as tf

        gpus = [
            tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
            for gpu in tf.config.list_physical_devices("GPU")
        ]
    return {"system": platform.platform(), "processor": processor_name(), "cores": core_count(), "gpus": gpus}


def core_count() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, bytes; None where the system does not report it."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def processor_name() -> str:
    """Name of the processor model."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def source_commit() -> str | None:
    """Commit of the source tree, with ``+`` where tracked files were modified since; None outside a Git checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if commit and changed else commit


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def seconds_since_start() -> float:
    """Wall-clock seconds since this process began, Python's start and all imports included.

    Where the system does not report it: since the import of this module.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.perf_counter() - _IMPORTED


def start_tensorflow() -> None:
    """Import TensorFlow and Keras and detect GPUs, without their start-up notices."""
    # otherwise TensorFlow takes a GPU's whole memory, also from onnxruntime
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    with quiet_stderr(), Wait("starting TensorFlow"):
        import keras  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()
    # its warnings advise programmers, such as about a function that is traced again for another batch size
    tf.get_logger().setLevel("ERROR")


def start_keras() -> None:
    """Import Keras without start-up notices, and TensorFlow (`start_tensorflow`) only where Keras runs on it."""
    with quiet_stderr(), Wait("starting Keras"):
        import keras
    if keras.backend.backend() == "tensorflow":
        start_tensorflow()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Suppress what C++ libraries print to stderr within the block, unless the block fails.

    TensorFlow prints start-up notices before it reads TF_CPP_MIN_LOG_LEVEL.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held, shown_on(kept):
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
