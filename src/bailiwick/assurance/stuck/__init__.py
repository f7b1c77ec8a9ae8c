"""Work that stands still: declared state machines, how long anything may stay in a state, and what did."""
