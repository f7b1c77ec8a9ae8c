"""How a person drives it."""
