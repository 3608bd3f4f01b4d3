"""Layers into a network's file, and out of it again: the commands `retrofit` and `strip`.

kinds.py      what can be put in, by the name that `--layer` has for it
retrofit.py   the command: the plan, and the file
strip.py      the command: core Keras layers only, and exports
files.py      a network from a file, and to one that is not there yet
exports.py    the formats that Keras exports to, and how each is run
checks.py     do two networks predict the same?
"""
