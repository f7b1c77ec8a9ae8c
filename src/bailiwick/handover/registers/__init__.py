"""The registers that a handover stands on: known issues, single-source documents, announcements."""
