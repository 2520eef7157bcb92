"""``predict-many``: answers for a folder or table of pictures into Parquet files, by Ray on one machine or many."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.commands import Commands
from kerascv_course.core.errors import InputError


def add_parsers(commands: Commands) -> None:
    """The command ``predict-many``."""
    many = commands.add_parser(
        "predict-many",
        help="answer for a folder or table of pictures into Parquet files, on many cores or machines; can be taken up again",
        description="Answer for many pictures into Parquet files. Killed and started again, it goes on. Needs the extra [cluster].",
        allow_abbrev=False,
    )
    many.add_argument("model", type=Path, help="exported ONNX file that classifies, ranks or embeds")
    many.add_argument("source", type=Path, help="folder of pictures, or a .csv or .parquet table of their names")
    many.add_argument("--output", type=Path, required=True, help="folder of the results, new or of the same job")
    many.add_argument("--column", default="path", help="of the table, with the names (default: path)")
    many.add_argument("--root", type=Path, help="folder that the table's names are below (default: the table's own)")
    many.add_argument("--top", type=int, default=3, help="how many classes, or entries of a gallery, to keep (default: 3)")
    many.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where it runs (default: cpu)")
    many.add_argument("--shard", type=int, default=1000, help="pictures kept, or done again, together (default: 1000)")
    many.add_argument("--batch-size", type=int, default=64, help="pictures run at once (default: 64)")
    many.add_argument("--workers", type=int, help="processes (default: as many as there are cores or GPUs for)")
    many.add_argument("--cpus", type=int, default=1, help="cores of each worker (default: 1)")
    many.add_argument("--gpus", type=float, default=0.0, help="GPUs of each worker, 0.5: half of one (default: 0)")
    many.add_argument("--address", help="of a Ray cluster (default: RAY_ADDRESS, or else this machine alone)")
    many.add_argument("--strict", action="store_true", help="exit code 2 where any picture cannot be used, as predict does")
    many.set_defaults(call=predict_many_command)


def predict_many_command(arguments: argparse.Namespace) -> int:
    """Answer for all pictures and tell how many there were."""
    from export.batch.cluster import predict_many
    from export.commands.predict import Progress

    summary = predict_many(
        arguments.model,
        arguments.source,
        arguments.output,
        column=arguments.column,
        root=arguments.root,
        top=arguments.top,
        provider=arguments.provider,
        shard=arguments.shard,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        cpus=arguments.cpus,
        gpus=arguments.gpus,
        address=arguments.address,
        progress=lambda done, total: Progress(total).tell(done),
    )
    taken_up = f", {summary.done_before} of them done before" if summary.done_before else ""
    shards = f"{summary.shards:,} shard{'s' if summary.shards != 1 else ''}"
    print(f"{summary.predicted:,} of {summary.pictures:,} pictures predicted in {shards}{taken_up}")
    print(f"  answers     {arguments.output / 'predictions'}")
    if summary.unreadable:
        told = f"{summary.unreadable:,} pictures could not be used: {arguments.output / 'unreadable'} says why"
        if arguments.strict:
            raise InputError(told)
        print(f"  unreadable  {told}")
    return 0
