"""The composition root: builds every service from Settings and mounts every room; nothing else wires.

One module for each process of an installation: ``prepare``, ``serve``, ``guard``, ``work``; each has a ``run``.
"""
