"""Checkpoints: what must be so a week, two weeks and a month after a platform went live, by what is stored."""
