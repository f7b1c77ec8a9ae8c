"""The ways to sign in."""
