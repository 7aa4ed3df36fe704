"""One archive with all that runs on a machine without internet: its parts, wheels, and what fits."""
