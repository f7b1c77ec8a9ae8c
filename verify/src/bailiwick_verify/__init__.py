"""Evidence that can be checked by anybody: RFC 6962 trees, C2SP signed notes, checkpoints, tiles and receipts.

Nothing in this distribution imports the server; the server builds its ledger with the formats defined here.
"""
