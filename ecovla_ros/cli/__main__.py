"""`python -m ecovla_ros.cli`."""

import sys

from ecovla_ros.cli import main

if __name__ == "__main__":
    sys.exit(main())
