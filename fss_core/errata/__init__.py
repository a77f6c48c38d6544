"""Errata: what each difference of the reference notebooks does to the scores of one network.

``differences.py`` lists the differences and the switches that reproduce them; ``measuring.py`` is a plain loop that
measures with any of the switches on, and with none gives exactly what the engine gives; ``networks.py`` builds what
the notebooks built in place of ShuffleNet V2 x1.0. ``variants.py`` names what is compared, ``effects.py`` reduces it to
numbers, ``bits.py`` and ``records.py`` write and read it as a published file, ``running.py`` does all of it.

Reading what is published imports no torch.
"""
