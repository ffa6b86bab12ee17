"""What the user sees when something goes wrong: one sentence, and an exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mmalign.errors import UserError

__all__ = ["friendly"]


@contextmanager
def friendly() -> Iterator[None]:
    """Turn a user's error into one sentence on stderr (exit 2) and Ctrl-C into a hint (exit 130).

    Raises:
        SystemExit: with the exit code.
    """
    try:
        yield
    except UserError as error:
        print(f"mmalign: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nmmalign: interrupted; the same command resumes", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            "mmalign: the disk is full; free some space and run the same command to resume", file=sys.stderr
        )
        raise SystemExit(2) from None
