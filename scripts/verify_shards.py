"""Checks shard sets: every member against its manifest line, every file against the checksums, every clip by decoding it.

python scripts/verify_shards.py /data/shards            all of it
python scripts/verify_shards.py /data/shards --fast     members are not decoded, only their headers are read

Works on the output of make_shards.py, one bucket of it, and on other shards in NeMo's format. The exit code is 1 if
anything is wrong.
"""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nemo_birq.data.shards.verify import verify

_MOST_ROWS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of one or more shard sets")
    parser.add_argument("--fast", action="store_true", help="do not decode the members")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (one for each core)")
    args = parser.parse_args()
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("shards")
            problems, members = verify(
                args.folder,
                decode=not args.fast,
                workers=max(1, args.workers),
                tick=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    if not problems:
        print(f"{args.folder}: {members:,} members, nothing wrong")
        return
    table = Table("shard", "member", "problem", title=f"{len(problems):,} problems, {members:,} members")
    for problem in problems[:_MOST_ROWS]:
        table.add_row(*map(Text, problem))
    if len(problems) > _MOST_ROWS:
        table.add_row("...", "", f"{len(problems) - _MOST_ROWS:,} more")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    sys.exit(1)


if __name__ == "__main__":
    main()
