"""Steps whose output can be made again for comparison: one file a step; headwater.rerun says what it holds."""
