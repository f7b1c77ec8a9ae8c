"""Who is it? Users, sign-in, sessions and applications."""
