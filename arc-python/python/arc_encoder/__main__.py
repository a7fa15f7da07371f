"""``python -m arc_encoder``: the command ``arc``."""

import sys

from arc_encoder._command_line import main

sys.exit(main())
