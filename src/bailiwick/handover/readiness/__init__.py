"""Readiness: whether an environment may go live, item by item, by evidence that expires."""
