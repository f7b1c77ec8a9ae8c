"""What every room stands on: settings, clock, ids, database, feed, crypto, problems, metrics, logging, jobs, permissions."""
