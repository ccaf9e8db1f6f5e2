"""Transports, one file each: the file name is the registered name. `_base` is what they share."""
