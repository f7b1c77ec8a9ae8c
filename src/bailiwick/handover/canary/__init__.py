"""Canaries: a candidate judged on a part of the real traffic, and the loop of access judged step by step."""
