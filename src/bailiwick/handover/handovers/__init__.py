"""Handovers: from team to team, by a pack built of evidence, signed by four teams and accepted at an instant."""
