"""Benchmarks: programs that print JSON. Nothing here is a test."""
