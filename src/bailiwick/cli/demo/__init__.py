"""``bailiwick demo``: one governed request from asking for authority to losing it, every claim checked."""
