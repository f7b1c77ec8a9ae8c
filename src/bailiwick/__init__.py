"""Bailiwick: who may do what, on whose authority, and the proof of it."""

from __future__ import annotations

__version__ = "0.1.0"
