"""A publisher's file layout into examples, one module a layout.

A module of this package that a `reader` in params.yaml names defines `read(folder, data)`, which
gives, in any order, of the raw files in a folder and their block of params.yaml,
- a `Raw` for each example, its picture or video unopened: its `path` is a file inside the folder,
  its `id` is no other's, its `label` is spelled as in `data.labels` where they are given;
- a `Rejected` for each file or row that gives none.

Where the folder as a whole cannot be read, such as one without a table, it raises a UserError.
Opening pictures, leaving some out and splitting what has no `split` is up to src/prepare.py. Beside
the publisher's files lies the `_source.json` of the stage `fetch`, which is no data.
"""
