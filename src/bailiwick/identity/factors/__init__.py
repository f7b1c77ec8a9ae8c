"""Second factors: what a person has or is, beside what he knows."""
