"""Where raw files come from, one module a source.

A module of this package that bears the name of a key of `Source` in src/schema.py defines
`fetch(source, folder, seed)`: it fills an empty folder with files in their publisher's layout, by
the value of that key, and returns what they are and what fixes them, such as a commit or a
checksum. That must be what JSON can hold: it is kept in `_source.json` beside the files, and in
metrics/data, by which src/provenance.py knows what has moved.

What cannot be had is a UserError, before which the stage puts the key. A download that breaks off
is kept and gone on from: src/sources/download.py.
"""
