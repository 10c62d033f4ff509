"""A progress bar on stderr, for whatever takes more than two seconds."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress_bar(total: int | None, unit: str) -> Iterator[Callable[[str], None]]:
    """Shows a bar of `total` units (None: not known) and gives the function that moves it on by one.

    What that function is told, the name of the unit just done, stands behind the bar.
    """
    with tqdm(total=total, unit=unit, file=sys.stderr, dynamic_ncols=True) as bar:

        def advance(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        yield advance
