"""A module that cannot be imported."""

from __future__ import annotations

import os
import time

with open(os.environ["MESH_TEST_CAUSE"], "w") as file:
    file.write(str(time.monotonic()))

app = 1 / 0
