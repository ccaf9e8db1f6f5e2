"""Modules that worker processes have loaded before the first task (see headwater.executor)."""

import numpy  # noqa: F401
import pyarrow  # noqa: F401
import pyarrow.parquet  # noqa: F401
