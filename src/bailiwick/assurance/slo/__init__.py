"""Service levels: what is promised (OpenSLO), what is counted, and what is left of the error budget."""
