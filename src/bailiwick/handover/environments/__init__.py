"""Where a platform runs, how far it is in changing hands, and what is measured of it after it went live."""
