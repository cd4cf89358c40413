"""What a recipe will take, before anything is spent: download, disk, memory, steps and time.

Nothing here asks a network or needs a GPU. `published.py` is the one place of what is known of
models and data before they are here; `memory.py` and `duration.py` state their formulas.
"""
