"""``python -m fss_core.cli``: the same as ``fss``."""

import sys
from contextlib import suppress

from fss_core.cli import main

with suppress(BrokenPipeError):
    sys.exit(main())
