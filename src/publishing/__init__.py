"""A trained recipe as others can use it: gathered, described, merged, and sent to where they look.

`trained.py` gathers what is known of a recipe, `bundle.py` fills a folder with what goes out, and
`hub.py` and `kaggle.py` send such a folder.
"""
