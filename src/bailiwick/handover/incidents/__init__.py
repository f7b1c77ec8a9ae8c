"""Incidents: opened by themselves or by hand, contained, preserved, recovered by measurement, reviewed."""
