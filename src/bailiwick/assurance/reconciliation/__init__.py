"""Two sources that ought to agree, compared row by row: what differs is a finding that somebody has to settle."""
