"""Modules that worker processes have loaded before the first task (see headwater.executor)."""

import numpy  # noqa: F401
import pyarrow
import pyarrow.parquet  # noqa: F401
