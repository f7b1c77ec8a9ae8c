"""Checkpoints: what must be so a week, two weeks, a month after a platform went live, worked out from what is stored."""
