"""Pages on which people work in a browser: their frame, their files, and signing in."""
