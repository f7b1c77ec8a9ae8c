"""Rhythm: what is looked at again and again, when, by whom, with what before them, and what comes of it."""
