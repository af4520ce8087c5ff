"""Files that the user writes, read whole and checked before anything starts."""
