"""Static checks of a submission's code, and arithmetic on a record folder. Nothing that is checked is ever executed.

source       a piece of Python text with a name: a file, or what a packed file unpacks to
check        one rule with an id (`catalogue.py`); it ends CLEAN, FLAG or HOLD
finding      what a check has to say about one place, with the path that leads there
"""
