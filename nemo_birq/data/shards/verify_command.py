"""``birq verify-shards``, which checks shard sets."""

import os
import sys
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nemo_birq.command_line import options
from nemo_birq.command_line.command import PATH_OR_URL, command
from nemo_birq.data.shards.ray_cluster import choose_workers
from nemo_birq.data.shards.stored import StoredFolder
from nemo_birq.data.shards.verify import verify
from nemo_birq.data.shards.verify_files import verify_files
from nemo_birq.data.shards.writer import AUDIO, MANIFEST
from nemo_birq.utils.progress import ProgressBars
from nemo_birq.utils.terminal import Terminal

MAX_ROWS = 200


@command("verify-shards")
@options.argument("folder", "folder of one or more shard sets, or its URL", type=PATH_OR_URL)
@options.option("--fast", is_flag=True, help="Read only the headers of the members instead of decoding them.")
@options.workers_option(os.cpu_count(), "Number of processes.")
@options.ray_option(
    "Check on a Ray cluster, with a task for each shard. Without an address: the running cluster, or a local one."
)
def verify_shards(folder: Path | str, fast: bool, workers: int, ray: str | None) -> None:
    """Compares the members of shard sets with manifest lines, compares files with checksums, and decodes every clip.

        birq verify-shards /data/shards            all checks
        birq verify-shards /data/shards --fast     only headers are read, without decoding
        birq verify-shards s3://bucket/shards      each shard is copied, checked and removed

    Works on the output of birq make-shards, one bucket of it, its single files, and other shards in NeMo's format. The
    exit code is 1 if there is a problem.
    """
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with ProgressBars(*columns, console=Terminal(stderr=True)) as progress:
        is_of_files = {AUDIO, MANIFEST} <= StoredFolder(folder).tops()
        check = verify_files if is_of_files else verify
        problems, members = check(folder, decode=not fast, workers=choose_workers(workers, ray), progress=progress)
    if not problems:
        Terminal().print(f"{folder}: {members:,} members, no problems", soft_wrap=True)
        return
    table = Table("shard", "member", "problem", title=f"{len(problems):,} problems, {members:,} members")
    for problem in problems[:MAX_ROWS]:
        table.add_row(*map(Text, problem))
    if len(problems) > MAX_ROWS:
        table.add_row("...", "", f"{len(problems) - MAX_ROWS:,} more")
    Terminal(width=None if sys.stdout.isatty() else 160).print(table)
    sys.exit(1)
