"""Studies: a grid of cells, each trained, scored, retrained and published by itself, the most informative first.

``cells.py`` says what a cell is, ``presets.py`` which there are; ``costs.py`` how long one takes; ``running.py`` does
them with the machinery of single measurements, so that a study that is killed goes on where it was; ``publishing.py``
writes a finished cell as files that are committed, and ``manifest.py`` what there is, and what is missing and why.

Reading what is published imports no torch.
"""
