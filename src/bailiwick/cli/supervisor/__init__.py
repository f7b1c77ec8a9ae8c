"""Runs the parts of an installation on one machine: starts, watches, restarts, stops them and answers about them."""
