"""What can be reached? Zones, servers and their upstream credentials."""
