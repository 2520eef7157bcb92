"""Several processes that train one network on Keras's JAX backend: joining, agreeing, and losing a process.

JAX's coordinator (process 0) introduces and monitors the processes; gradients go through gloo between CPUs and NCCL between GPUs.
When a peer is lost, JAX aborts the process from C++, where Python cannot report the reason; so the training process is a child of
the one that was started (`supervise`), which reports in its place.

`tf.distribute.MultiWorkerMirroredStrategy` is not used: `model.fit` of Keras 3 fails under it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kerascv_course.core.errors import CourseError, InputError, shell_word

if TYPE_CHECKING:
    from kerascv_course.training.run_dir import Run

__all__ = [
    "LostProcessError",
    "ProcessGroup",
    "agree",
    "choose_backend",
    "exit_immediately",
    "is_worker",
    "join",
    "leave",
    "report_lost_processes",
    "supervise",
]

#: Environment variable of the training process: the process ID of its supervisor.
WORKER = "KERASCV_COURSE_SUPERVISOR"

#: Environment variables of Keras and JAX; under Slurm, Open MPI, Kubernetes and on TPUs JAX finds the values by itself.
VARIABLES = {
    "coordinator": ("KERAS_DISTRIBUTION_JOB_ADDRESSES", "JAX_COORDINATOR_ADDRESS"),
    "processes": ("KERAS_DISTRIBUTION_NUM_PROCESSES", "JAX_NUM_PROCESSES"),
    "process_id": ("KERAS_DISTRIBUTION_PROCESS_ID", "JAX_PROCESS_ID"),
}

#: Seconds without a heartbeat after which a process counts as lost; if its machine still responds, that is noticed at once.
SILENCE = 30

#: Lines of C++ libraries on stderr that do not help a user.
NOISE = re.compile(
    r"[IWEF]\d{4} |\*\*\* |\s+@ +0x|\[Gloo\]|RPC: /xla|Additional GRPC|:UNKNOWN:|absl::Status|WARNING: All log messages"
)


@dataclass(frozen=True)
class ProcessGroup:
    """Address and size of a group of processes; None: from the environment.

    Attributes:
        coordinator: HOST:PORT of process 0, where the port must be free.
        processes: number of processes.
        process_id: index of this process, from 0.
        timeout: seconds to wait for the others.
    """

    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None
    timeout: int = 30

    @classmethod
    def of(cls, given: ProcessGroup, environment: Mapping[str, str]) -> ProcessGroup:
        """The given values, completed from the variables of Keras and JAX.

        Raises:
            InputError: impossible values.
        """
        found = {
            field: environment[name] for field, names in VARIABLES.items() for name in reversed(names) if name in environment
        }
        try:
            processes, process_id = (
                int(found[name]) if value is None and name in found else value
                for name, value in (("processes", given.processes), ("process_id", given.process_id))
            )
        except ValueError as error:
            raise InputError(f"the environment's number of processes or process ID is not an integer: {error}") from None
        address = given.coordinator or found.get("coordinator", "").split(",")[0] or None
        if address is not None and not re.fullmatch(r".+:\d{1,5}", address):
            raise InputError(f"--coordinator must be HOST:PORT, such as node0:7777; received {address!r}")
        if processes is not None and processes < 1:
            raise InputError(f"--processes must be 1 or more; received {processes}")
        if process_id is not None and not 0 <= process_id < (processes or process_id + 1):
            raise InputError(f"--process-id must be 0 to --processes − 1; received {process_id} of {processes}")
        if given.timeout < 1:
            raise InputError(f"--connect-timeout must be 1 second or more; received {given.timeout}")
        return cls(address, processes, process_id, given.timeout)


class LostProcessError(CourseError):
    """Another process of the training has ended or does not respond."""


def choose_backend(environment: Mapping[str, str]) -> str:
    """The Keras backend for several processes: JAX.

    Raises:
        InputError: another is requested, or JAX is not installed.
    """
    asked = environment.get("KERAS_BACKEND", "jax")
    if asked != "jax":
        raise InputError(
            "--distributed needs Keras's JAX backend (TensorFlow's MultiWorkerMirroredStrategy fails in model.fit with Keras 3); "
            f"received KERAS_BACKEND={asked}: unset it"
        )
    if importlib.util.find_spec("jax") is None:
        raise InputError("--distributed needs JAX, which is not installed: pip install 'kerascv_course[jax]'")
    return asked


# --- The training process ---


def join(cluster: ProcessGroup) -> None:
    """Connect to the other processes; must be called before the first computation.

    Raises:
        InputError: neither the arguments nor the environment describe the others, or process 0's port is taken.
        LostProcessError: process 0 cannot be reached.
    """
    import jax

    address, number = cluster.coordinator, cluster.process_id
    if address and number:
        _wait_for(address, cluster.timeout)
    elif address and number == 0:
        _check_free(address)
        print(
            f"waiting up to {cluster.timeout} s for {(cluster.processes or 0) - 1} other processes at {address} …", flush=True
        )
    try:
        # keras.distribution.initialize calls this without the timeouts, whose default is five minutes
        jax.distributed.initialize(
            address,
            cluster.processes,
            number,
            initialization_timeout=cluster.timeout,
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=SILENCE,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"the processes cannot connect ({str(error).splitlines()[0]}): outside Slurm, Open MPI and Kubernetes give --coordinator "
            "HOST:PORT --processes N --process-id I to each"
        ) from None


def _wait_for(address: str, timeout: float) -> None:
    """Wait until HOST:PORT accepts connections."""
    host, port = address.rsplit(":", 1)
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=min(5, timeout)).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > end:
                raise LostProcessError(
                    f"the coordinator {address} cannot be reached ({error}): start process 0 there, or check --coordinator, the "
                    "firewall and --connect-timeout"
                ) from None
        time.sleep(0.2)


def _check_free(address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise InputError(f"process 0 cannot listen at {address} ({error}): choose another port") from None


def agree(what: Mapping[str, str]) -> None:
    """Check that all processes have the same inputs.

    Args:
        what: name for messages to a text that must be equal everywhere.

    Raises:
        InputError: they differ.
    """
    import numpy as np
    from jax.experimental import multihost_utils

    digests = np.stack([np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in what.values()])
    everywhere = np.asarray(multihost_utils.process_allgather(digests)).reshape(-1, *digests.shape)
    for name, same in zip(what, (everywhere == everywhere[0]).all(axis=(0, 2)), strict=True):
        if not same:
            raise InputError(
                f"all processes of a training need the same {name}, but they differ: give each the same command and files"
            )


def leave() -> None:
    """Disconnect from the other processes, all at the same time."""
    import jax

    shutdown: Any = jax.distributed.shutdown
    shutdown()


@contextlib.contextmanager
def report_lost_processes(run: Run | None) -> Iterator[None]:
    """Turn an error within the block that is caused by the end of another process into a `LostProcessError`.

    Args:
        run: the run to resume; None if there is none yet.
    """
    try:
        yield
    except Exception as error:
        signs = (
            "gloo|nccl|connection (closed|reset|refused)|coordination service|socket closed|broken pipe|heartbeat|unavailable"
        )
        if isinstance(error, CourseError) or not re.search(signs, str(error), re.IGNORECASE):
            raise
        raise LostProcessError(_lost(str(run.path) if run else None)) from None


def _lost(run: str | None) -> str:
    again = "Restart all processes"
    if run:
        again += f" with --resume {shell_word(run)}, after the last finished validation"
    return f"another process of this training has ended or does not respond: see its output. {again}"


def is_worker() -> bool:
    """Whether this process is the training child of a supervisor; it then ends together with the supervisor."""
    parent = os.environ.get(WORKER)
    if parent is None:
        return False
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):
            os._exit(1)
    return True


@contextlib.contextmanager
def exit_immediately() -> Iterator[None]:
    """End a failing training process immediately: JAX's shutdown would wait for processes that are gone."""
    try:
        yield
    except SystemExit as end:
        if end.code and WORKER in os.environ:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(end.code))
        raise


# --- The supervisor ---


def supervise(module: str, arguments: Sequence[str], run: str) -> int:
    """Run a command in a child process, and report its end where it cannot.

    Signals are passed on to the child. Its stdout and stderr are shown, except for debug output of C++ libraries, which is shown only
    if the child ends without a message of its own.

    Args:
        module: for ``python -m``.
        arguments: arguments of the module.
        run: the run folder, for messages.

    Returns:
        The exit code.

    Raises:
        LostProcessError: the child was aborted because another process was lost.
        CourseError: the child was killed.
    """
    environment = {**os.environ, "KERAS_BACKEND": choose_backend(os.environ), WORKER: str(os.getpid())}
    child = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches it through this process, once
    )
    for number in (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])):
        signal.signal(number, lambda received, _: child.send_signal(received))
    held = []
    for line in child.stderr or ():
        if NOISE.match(line):
            held.append(line)
        else:
            sys.stderr.write(line)
    code = child.wait()
    if code >= 0:
        return code
    if code == -signal.SIGABRT and any("distributed service" in line or "coordination" in line for line in held):
        if any("RegisterTask" in line or "Barrier" in line for line in held):
            raise LostProcessError(
                "not all processes connected within --connect-timeout: start all of them, each with its own --process-id and the same "
                "--coordinator and --processes"
            )
        raise LostProcessError(_lost(run))
    sys.stderr.writelines(held)
    raise CourseError(
        f"the training process was ended by signal {-code} ({signal.Signals(-code).name}): restart the processes with "
        f"--resume {shell_word(run)}, after the last finished validation"
    )
