"""``fss``: the product's verbs on the command line.

Exit codes: 0 done, 1 the domain says no (one line), 2 wrong usage (one line), 130 interrupted (run again to go on).
``arguments.py`` says what can be written, and ``naming.py`` reads what it names; ``measuring.py``, ``comparing.py``,
``retraining.py``, ``studying.py``, ``quoting.py``, ``runs.py`` and ``keeping.py`` do it.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence

from fss_core.cli.arguments import parser
from fss_core.computing import prepare_to_compute
from fss_core.specs import FssError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fss``.

    Args:
        arguments: of the command line; ``sys.argv`` by default.

    Returns:
        The exit code.
    """
    prepare_to_compute()
    # Streams that the caller closed: what is written there is lost, as asked.
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()
    warnings.showwarning = lambda message, *_rest, **_named: print(f"fss: {message}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ε still shows the rest
    try:
        options = parser().parse_args(arguments)
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except FssError as error:
        return _fail(error, 1)
    except UnicodeError as error:
        return _fail(f"a name cannot be written under this locale ({error}); use a UTF-8 locale and UTF-8 names", 1)
    except ValueError as error:
        if os.environ.get("FSS_TRACEBACK"):
            raise
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; what was finished is kept, run the same command to go on", 130)
    except BrokenPipeError:
        # The reader of a pipe went away; leave without complaint about flushing to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'the output'}: {error.strerror}; check the place and its permissions", 1)
    except Exception as error:
        if os.environ.get("FSS_TRACEBACK"):
            raise
        return _fail(f"unexpected {type(error).__name__}: {error} (set FSS_TRACEBACK=1 to see where)", 1)


def _fail(reason: object, code: int) -> int:
    print("fss:", " ".join(str(reason).split()), file=sys.stderr)
    return code
