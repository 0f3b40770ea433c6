"""Write a data set for TFDS from its official archives, a folder or a table of images."""

import sys
import time
from typing import TextIO

from resnet_jax.commands import _cli
from resnet_jax.runtime.console import Console

_SECONDS_BETWEEN_LINES = 10


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax prepare NAME|FOLDER|TABLE --data_dir D`.

    Args:
      argv: the arguments after `prepare`.

    Raises:
      DataError: an archive is missing or damaged, or the data set already exists.
    """
    parser = _cli.ArgumentParser(
        prog="python -m resnet_jax prepare",
        description=__doc__,
        epilog="After an interruption, the same command resumes.",
    )
    parser.add_argument(
        "dataset",
        metavar="NAME|FOLDER|TABLE",
        help="cifar10, cifar100, fashion_mnist, imagenet2012; a folder with train/CLASS/*.jpg or "
        "CLASS/*.jpg; or a table (.csv, .parquet) of files and labels",
    )
    parser.add_argument("--data_dir", required=True, metavar="D", help="folder of data sets")
    parser.add_argument(
        "--source",
        metavar="PATH",
        help="the archive, or the folder of the archives or images; by default all but ImageNet is "
        "downloaded",
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        metavar="S",
        help="the splits of a folder or table (all whose images have classes)",
    )
    parser.add_argument(
        "--unverified",
        action="store_true",
        help="accept archives and numbers of images other than the published ones",
    )
    arguments = parser.parse_args(argv)
    from resnet_jax.data.prepare import prepare  # Not at the top: help appears at once.

    progress = _Progress(sys.stderr)
    try:
        directory, counts = prepare(
            arguments.dataset,
            arguments.data_dir,
            arguments.source,
            verified=not arguments.unverified,
            splits=arguments.splits,
            report=progress.report,
            notify=lambda line: print(f"resnet_jax: {line}", file=sys.stderr),
        )
    finally:
        progress.close()
    print(f"{directory}: " + ", ".join(f"{split} {count}" for split, count in counts.items()))


class _Progress:
    """A line redrawn in place on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, stream: TextIO | Console) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._shown = time.monotonic()
        self._line = ""

    def report(self, what: str, done: int, total: int) -> None:
        """Shows the progress from time to time."""
        now = time.monotonic()
        pause = 0.1 if self._live else _SECONDS_BETWEEN_LINES
        if now - self._shown < pause and not (done == total and self._live):
            return
        self._shown = now
        share = f" {done / total:6.1%}" if total else ""
        self._line = f"{what}{share}"
        end = "" if self._live else "\n"
        start = "\r\x1b[K" if self._live else ""
        print(f"{start}{self._line}", end=end, file=self._stream, flush=True)

    def close(self) -> None:
        """Ends the redrawn line."""
        if self._live and self._line:
            print(file=self._stream)
