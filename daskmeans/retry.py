"""Tries again what may fail in passing: reads over a network. Damage and refusals are not tried again."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Seconds to wait before each further try. Some 10 s in all outlast a server's hiccup; an outage should be told soon.
WAITS_S = (0.25, 1.0, 3.0, 6.0)

# Packages that speak with remote stores; what they raise tells of the way, not of the data.
REMOTE = {"aiohttp", "aiobotocore", "botocore", "fsspec", "gcsfs", "http", "httpx", "obstore", "requests", "urllib3"}

# What the system says of files that will not be there, or be allowed, a second later either.
LASTING = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOSPC, errno.EROFS),
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP),
}

# What packages say of a request that cannot even be made.
NEVER_MADE = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "NoRegionError",
    "ParamValidationError",
}


def may_pass(error: BaseException) -> bool:
    """Return whether trying again may help.

    An `OSError` without a number is a codec's word for damage, unless it is of a lost connection or of time.

    >>> may_pass(TimeoutError()), may_pass(OSError(errno.EIO, "server error")), may_pass(OSError("invalid data"))
    (True, True, False)
    """
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in LASTING
    kind = type(error)
    return kind.__module__.partition(".")[0] in REMOTE and kind.__name__ not in NEVER_MADE


def patiently(function: Callable[[], T], what: str) -> T:
    """Return what `function` returns; call it again after a while where it fails in passing.

    Parameters
    ----------
    what : what is read, for the log.
    """
    for wait_s in WAITS_S:
        try:
            return function()
        # Codecs raise what they like; `may_pass` lets through all but a few kinds.
        except BaseException as error:
            if not may_pass(error):
                raise
            logger.info("%s: %s: %s; trying again in %.1f s", what, type(error).__name__, error, wait_s)
        # Workers that failed together should not all come back together.
        time.sleep(wait_s * random.uniform(0.5, 1.5))
    return function()
