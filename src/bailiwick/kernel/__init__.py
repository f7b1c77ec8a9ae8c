"""What every room stands on: settings, clock, database, feed, crypto, problems, metrics, logging, jobs, permissions."""
