"""Backups of the database, what a restore makes of them, and the drills that prove it."""
