"""Contests of `performance.py`: what is measured (a file per subject), and the processes that it is measured in."""
