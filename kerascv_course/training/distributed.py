"""Several processes that train one network together, on Keras's JAX backend: joining, agreeing, and what happens when one is lost.

JAX's own service does the work: its coordinator (process 0) tells the others of each other, watches over them, and the gradients go
by gloo between processors and by NCCL between GPUs. It ends a process whose peers are gone by aborting it from within C++, where no
Python code can say why; so the process that trains is a child of the one that was started (`supervise`), which speaks in its stead.

`tf.distribute.MultiWorkerMirroredStrategy` is not used: with Keras 3 `model.fit` fails under it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kerascv_course.core.errors import CourseError, InputError

if TYPE_CHECKING:
    from kerascv_course.training.run_dir import Run

__all__ = [
    "Cluster",
    "LostProcessError",
    "agree",
    "choose_backend",
    "ending_at_once",
    "is_worker",
    "join",
    "leave",
    "supervise",
    "telling_lost_processes",
]

#: Set in the process that trains, to the number of the process that watches over it.
WORKER = "KERASCV_COURSE_SUPERVISOR"

#: What Keras reads these from; JAX finds them by itself under Slurm, Open MPI, Kubernetes and on TPUs.
VARIABLES = {
    "coordinator": ("KERAS_DISTRIBUTION_JOB_ADDRESSES", "JAX_COORDINATOR_ADDRESS"),
    "processes": ("KERAS_DISTRIBUTION_NUM_PROCESSES", "JAX_NUM_PROCESSES"),
    "process_id": ("KERAS_DISTRIBUTION_PROCESS_ID", "JAX_PROCESS_ID"),
}

#: Seconds after which a process that gives no sign of life is taken for lost; one whose machine still answers is noticed at once.
SILENCE = 30

#: Lines of C++ libraries on stderr that say nothing to a user.
NOISE = re.compile(
    r"[IWEF]\d{4} |\*\*\* |\s+@ +0x|\[Gloo\]|RPC: /xla|Additional GRPC|:UNKNOWN:|absl::Status|WARNING: All log messages"
)


@dataclass(frozen=True)
class Cluster:
    """Where the processes meet. What is None is asked of the environment.

    Attributes:
        coordinator: HOST:PORT of process 0; the port is free there.
        processes: how many there are.
        process_id: number of this one, from 0.
        timeout: seconds to wait for the others.
    """

    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None
    timeout: int = 30

    @classmethod
    def of(cls, given: Cluster, environment: Mapping[str, str]) -> Cluster:
        """What is given, and for the rest what Keras's and JAX's variables say.

        Raises:
            InputError: values that cannot be.
        """
        found: dict[str, str] = {}
        for field, names in VARIABLES.items():
            for name in names:
                if name in environment:
                    found.setdefault(field, environment[name])
        try:
            processes = given.processes if given.processes is not None else _int(found.get("processes"))
            process_id = given.process_id if given.process_id is not None else _int(found.get("process_id"))
        except ValueError as error:
            raise InputError(f"the environment's number of processes or of this process is none: {error}") from None
        address = given.coordinator or found.get("coordinator", "").split(",")[0] or None
        if address is not None and not re.fullmatch(r".+:\d{1,5}", address):
            raise InputError(f"--coordinator is HOST:PORT, such as node0:7777; received {address!r}")
        if processes is not None and processes < 1:
            raise InputError(f"--processes must be 1 or more; received {processes}")
        if process_id is not None and not 0 <= process_id < (processes or process_id + 1):
            raise InputError(f"--process-id counts from 0 to --processes − 1; received {process_id} of {processes}")
        if given.timeout < 1:
            raise InputError(f"--connect-timeout must be 1 second or more; received {given.timeout}")
        return cls(address, processes, process_id, given.timeout)


class LostProcessError(CourseError):
    """Another process of the training has ended or does not answer."""


def _int(text: str | None) -> int | None:
    return None if text is None else int(text)


def choose_backend(environment: Mapping[str, str]) -> str:
    """The Keras backend for several processes: JAX.

    Raises:
        InputError: another is asked for, or JAX is not installed.
    """
    import importlib.util

    asked = environment.get("KERAS_BACKEND", "jax")
    if asked != "jax":
        raise InputError(
            f"--distributed trains on Keras's JAX backend (TensorFlow's MultiWorkerMirroredStrategy fails in model.fit with Keras 3); "
            f"received KERAS_BACKEND={asked}: unset it"
        )
    if importlib.util.find_spec("jax") is None:
        raise InputError("--distributed needs JAX, which is not installed here: pip install 'kerascv_course[jax]'")
    return asked


# --- the process that trains ---


def join(cluster: Cluster) -> None:
    """Meet the other processes; before the first computation.

    Raises:
        InputError: neither the arguments nor the environment say who the others are, or process 0's port is taken.
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
        # What keras.distribution.initialize calls; it cannot be given the timeouts, of which JAX's own are five minutes.
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
            f"the processes cannot meet ({str(error).splitlines()[0]}): outside Slurm, Open MPI and Kubernetes give --coordinator "
            "HOST:PORT --processes N --process-id I to each"
        ) from None


def _wait_for(address: str, timeout: float) -> None:
    """Wait until somebody listens at HOST:PORT."""
    host, port = address.rsplit(":", 1)
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=min(5, timeout)).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > end:
                raise LostProcessError(
                    f"the coordinator {address} cannot be reached ({error}): start process 0 there, or see to --coordinator, the "
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
            raise InputError(f"process 0 listens at {address}, which cannot be ({error}): choose another port") from None


def agree(what: Mapping[str, str]) -> None:
    """Make sure that all processes have the same.

    Args:
        what: names for the user, and texts that must be the same everywhere.

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
                f"all processes of a training need the same {name}; they differ: give each the same command and files"
            )


def leave() -> None:
    """Part from the other processes, all at the same time; what follows is each one's own affair."""
    import jax

    jax.distributed.shutdown()


@contextlib.contextmanager
def telling_lost_processes(run: Run | None) -> Iterator[None]:
    """Turn an error within the block that comes of another process's end into a `LostProcessError`.

    Args:
        run: to go on with; None where there is none yet.
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
    again = f"Every finished validation is kept; start all processes again with --resume {run}" if run else "Start all again"
    return f"another process of this training has ended or does not answer: its own output says why. {again}"


def is_worker() -> bool:
    """Whether this process is the one that trains, watched over by another; it then ends when that one does."""
    parent = os.environ.get(WORKER)
    if parent is None:
        return False
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):
            os._exit(1)
    return True


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """End a process that trains with others there and then where it fails: JAX's own farewell waits for those who are gone."""
    try:
        yield
    except SystemExit as end:
        if end.code and WORKER in os.environ:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(end.code))
        raise


# --- the process that was started ---


def supervise(module: str, arguments: Sequence[str], run: str) -> int:
    """Run a command line in a child process, and say what happened where it cannot.

    Signals go to the child. Its stdout is this one's; so is its stderr, but for what C++ libraries tell programmers, which is shown
    only where the child ends without a word of its own.

    Args:
        module: for ``python -m``.
        arguments: its arguments.
        run: the run folder, for the message.

    Returns:
        The exit code.

    Raises:
        LostProcessError: the child was aborted because another process is gone.
        CourseError: it was killed.
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
                "the processes did not all come within the time that --connect-timeout gives: start all of them, each with its own "
                "--process-id and the same --coordinator and --processes"
            )
        raise LostProcessError(_lost(run))
    sys.stderr.writelines(held)
    raise CourseError(
        f"the training process was ended by signal {-code} ({signal.Signals(-code).name}). Every finished validation is kept; start "
        f"processes again with --resume {run}"
    )
