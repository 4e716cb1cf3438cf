"""What can go wrong, in words for the person who must mend it: what, where, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DaskMeansError(Exception):
    """An error whose message alone tells a person what to do; no traceback is needed.

    `exit_code` is what the command line returns for it.
    """

    exit_code = 1


class ConfigError(DaskMeansError, ValueError):
    """The configuration or the usage is wrong; nothing was read or written."""

    exit_code = 2


class DataError(DaskMeansError, ValueError):
    """The data cannot be clustered as asked: missing values, a damaged chunk, a wrong shape."""

    exit_code = 3


class RowError(DataError):
    """One row cannot be clustered; `row` is its place among those that were looked at."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message, row)
        self.message, self.row = message, row

    def __str__(self) -> str:
        """Return the message and the place."""
        return f"{self.message} The first is row {self.row} of a chunk."


class ClusterError(DaskMeansError, RuntimeError):
    """The Dask cluster could not be started or was lost."""

    exit_code = 4


class SplitFeaturesWarning(UserWarning):
    """Chunks cut the features of a row; they are merged, which costs a copy in each pass."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of `known`, else the list of what there is.

    >>> did_you_mean("lattitude", ["latitude", "level"])
    "; did you mean 'latitude'?"
    >>> did_you_mean("q", ["u", "v"])
    '; there is: u, v'
    """
    names = [str(name) for name in known]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is: {', '.join(names)}" if names else ""
