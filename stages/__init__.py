"""One script a stage, run as `python -m stages.NAME`."""

import gc
import os
import sys

# Importing the model libraries makes some millions of objects that live as long as the process:
# the collector, which would walk them a hundred times, waits for `one_line`. argv is "-m" as long
# as Python looks for the script, and never where a test imports one.
if sys.argv[0] == "-m":
    gc.disable()
    # Nothing is compiled here, and bitsandbytes imports the whole compiler to wrap what it never
    # calls: a second of each start.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
