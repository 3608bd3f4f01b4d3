"""Everything behind the command `keras-swapout`; the library imports nothing of it.

cli.py        the command line
methods and networks: pilot/methods.py
packages.py   what the commands need beyond Keras
quiet.py      a screen without TensorFlow's messages
store.py      files whole or not at all, folders for one run and one process; shapes.py, what
              a file has to hold
progress.py   what the terminal shows of a run
hardware.py   what a figure was measured on
benchmark.py  what the layers cost
measuring/    scores, corruptions, ways of inference, and the statistics of differences
report/       the answer, the tables and the page that every command ends with
pilot/  tune/  evaluate/    the commands
"""
