"""On whose authority? Token exchange, mandates, revocation and signing keys."""
