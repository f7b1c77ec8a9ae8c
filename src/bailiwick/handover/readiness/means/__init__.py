"""Looks that checklists need beside those of the probes."""
