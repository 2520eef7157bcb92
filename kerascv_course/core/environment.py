"""What a run records of the machine and the software, and how TensorFlow is started quietly."""

from __future__ import annotations

import contextlib
import os
import platform
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

__all__ = [
    "cores",
    "describe_environment",
    "package_versions",
    "processor",
    "quiet_stderr",
    "seconds_since_start",
    "source_commit",
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
    """Version of this package, of Python and of each package that results depend on (those installed)."""
    versions = {"kerascv_course": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def describe_environment() -> dict[str, Any]:
    """Machine, versions, source commit, command and time, JSON-able."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", *_module_and_arguments()]),
        "machine": describe_machine(),
        "versions": package_versions(),
        "commit": source_commit(),
    }


def describe_machine() -> dict[str, Any]:
    """System, processor, cores that may be used, and GPUs that TensorFlow, or JAX where Keras runs on it, sees."""
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
    return {"system": platform.platform(), "processor": processor(), "cores": cores(), "gpus": gpus}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _module_and_arguments() -> list[str]:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = spec.name if spec else Path(sys.argv[0]).name
    return [name.removesuffix(".__main__"), *sys.argv[1:]]


def source_commit() -> str | None:
    """Commit of the source tree this package runs from, with ``+`` where it was changed since; None outside a checkout."""
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
    """Wall-clock seconds since this process began: Python's own start and all imports included (since the import of this module where
    the system does not tell)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.perf_counter() - _IMPORTED


def start_tensorflow() -> None:
    """Import TensorFlow and Keras and look for GPUs, without the start-up notices."""
    with quiet_stderr():
        import keras  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()
    # its warnings are advice to programmers, such as that a function was traced again for another batch size
    tf.get_logger().setLevel("ERROR")


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what C++ libraries print to stderr within the block, and show it after all if the block fails.

    TensorFlow prints start-up notices that no setting turns off (TF_CPP_MIN_LOG_LEVEL comes too late for them).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
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
