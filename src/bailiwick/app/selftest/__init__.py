"""The platform tried on itself: a life of thirty-five days by an injected clock, and the same life with faults."""
