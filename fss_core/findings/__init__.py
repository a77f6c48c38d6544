"""Findings: sentences about what is published, whose numbers are computed, never typed.

A finding is an entry of ``findings.toml`` beside the published studies: a sentence with fields, and for each field
which number it is. ``cells.py`` reads published cells, ``quantities.py`` is the list of numbers that can be asked for,
``sentences.py`` reads findings and puts the numbers in, ``checking.py`` compares the result with what README quotes.

None of it imports torch.
"""
