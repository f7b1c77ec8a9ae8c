"""Is it under control? Owners, rhythm, checkpoints, waivers, overrides, secrets, reconciliation, SLOs, alerts."""
