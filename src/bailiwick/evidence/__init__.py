"""What happened? The spool, the ledger, proofs and search."""
