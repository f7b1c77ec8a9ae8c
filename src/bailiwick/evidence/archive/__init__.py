"""The archive: what the ledger keeps once its rows are too old for the database."""
