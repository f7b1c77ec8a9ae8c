"""Who is called, now and next."""
