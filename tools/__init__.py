"""What is run by hand, as `python -m tools.NAME`; each starts as fast as a stage does."""

import stages  # noqa: F401  what its package says of collecting memory and of compiling
