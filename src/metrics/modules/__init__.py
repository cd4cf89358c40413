"""Text metrics of the standard packages, each also an `evaluate` module that needs no network.

From the root of this repository,
`evaluate.load("src/metrics/modules/rouge.py").compute(predictions=texts, references=several)`
takes the texts and, for each, a list of references. `src/metrics/texts.py` calls the functions
behind it, so both give the same numbers. `evaluate` copies such a file away, with those beside it
that it imports by a leading dot, and reads its imports line by line: each has a line of its own.
"""
