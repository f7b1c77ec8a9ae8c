"""Rollouts: a release on its way by a reviewed plan, let go only by a computed Go/No-Go, and taken back in time."""
