"""`python -m crosslmm_cli` is `crosslmm`."""

import sys

from crosslmm_cli.main import main

sys.exit(main())
