"""The process of `export.untrusted.isolated`: it opens one file and runs it on the arrays that it is sent, until there are no more."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

from export.predictor import open_session
from export.untrusted.guard import bound_memory, die_with_parent
from export.untrusted.isolated import read_message, write_message


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Open a file and answer requests, each with the outputs or an error."""
    settings, _ = read_message(requests)
    path = Path(settings.pop("path"))
    try:
        if settings.get("provider") != "cuda":
            bound_memory(path)
        session = open_session(path, **settings)
        signatures = {
            key: [(each.name, each.type, each.shape) for each in listed]
            for key, listed in (("inputs", session.get_inputs()), ("outputs", session.get_outputs()))
        }
        metadata = session.get_modelmeta().custom_metadata_map
        write_message(answers, {**signatures, "metadata": metadata, "providers": session.get_providers()})
    except Exception as error:  # onnxruntime's exceptions share no base class
        write_message(answers, {"error": str(error)[:1000] or type(error).__name__})
        return
    while True:
        request, arrays = read_message(requests)
        try:
            outputs = session.run(request["names"], dict(zip(request["feeds"], arrays, strict=True)))
            write_message(answers, {}, outputs)
        except Exception as error:  # as above
            write_message(answers, {"error": str(error)[:1000] or type(error).__name__})


def main() -> None:
    """Serve on standard input and output, with everything that libraries print dropped."""
    die_with_parent(os.getppid())
    with os.fdopen(os.dup(0), "rb", buffering=0) as requests, os.fdopen(os.dup(1), "wb", buffering=0) as answers:
        os.dup2(2, 1)
        with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
            serve(requests, answers)


if __name__ == "__main__":
    main()
