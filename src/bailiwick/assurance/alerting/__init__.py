"""Alerts: from what noticed something to whoever looks at it, and how well that went."""
