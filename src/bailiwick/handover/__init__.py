"""May it change hands? Readiness, rollouts and their gates, canary, hypercare, incidents, backups, sign-off."""
