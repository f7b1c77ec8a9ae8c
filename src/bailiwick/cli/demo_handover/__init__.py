"""``bailiwick demo-handover``: from an empty installation to a signed handover, every step checked."""
