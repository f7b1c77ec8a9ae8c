"""Handovers: from team to team, by a pack that is built of evidence, signed by four teams and accepted at an instant."""
