"""Probes: code that looks, measures, and answers a verdict with its evidence."""
