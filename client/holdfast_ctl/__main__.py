"""`python -m holdfast_ctl` is the command `clusterctl`."""

import sys

from holdfast_ctl.cli import main

sys.exit(main())
