"""What we have of our own to compare: every set of rows by a name, as one fixed query of a zone."""

from __future__ import annotations

# ruff: noqa: S608 - queries are put together of what stands here alone
# both sides tell of every hour, also that there was nothing in it, so that hours nobody tells of differ
_HOURS = """
        SELECT hour, outcome FROM generate_series(date_trunc('hour', cast(:since AS timestamptz), 'UTC'),
          cast(:until AS timestamptz) - interval '1 second', interval '1 hour') AS hour,
          unnest(ARRAY['allow', 'deny']) AS outcome"""
_VERDICTS = "e.zone = :zone AND e.code IN ('BW4001', 'BW4002') AND e.at >= :since AND e.at < :until"
# destinations that are to have all of them, with their position; also none at all, so that no destination is no gap
_SINKS = """
        SELECT s.id, s.name, c.next_seq FROM siem_cursors c JOIN siem_sinks s ON s.id = c.sink
        WHERE c.zone = :zone AND s.enabled AND s.created_at <= :since
          AND NOT EXISTS (SELECT FROM jsonb_each(s.filter) f WHERE f.value NOT IN ('[]', 'null', '""'))"""

OWN: dict[str, str] = {
    # what somebody is given here, as it stands
    "memberships": """
        SELECT m.username AS subject, g.name AS resource, m.source, m.added_at FROM group_members m
        JOIN groups g ON g.id = m.group_id WHERE m.zone = :zone""",
    "roles": "SELECT username AS subject, role AS resource FROM users WHERE zone = :zone AND is_active",
    # people who sign in by a directory, with the role that is theirs by it and not by a group of ours
    "directory-roles": """
        SELECT i.provider, u.username AS subject, coalesce(u.own_role, u.role) AS resource, i.last_seen_at
        FROM user_identities i JOIN users u ON u.zone = i.zone AND u.username = i.username
        WHERE i.zone = :zone AND i.provider LIKE 'ldap:%' AND u.is_active AND coalesce(u.own_role, u.role) <> 'none'""",
    # who is in the groups that were not made here
    "directory-memberships": """
        SELECT m.username AS subject, g.name AS resource, m.source, m.added_at FROM group_members m
        JOIN groups g ON g.id = m.group_id JOIN users u ON u.zone = m.zone AND u.username = m.username
        WHERE m.zone = :zone AND g.source <> 'api' AND u.is_active""",
    "people": "SELECT username, email, external_id, provider, is_active FROM users WHERE zone = :zone",
    "groups": "SELECT name, external_id, source, role FROM groups WHERE zone = :zone",
    "grants": """
        SELECT a.name AS subject, s.key || '#' || scope.value AS resource FROM applications a
        CROSS JOIN LATERAL jsonb_each(a.grants) s CROSS JOIN LATERAL jsonb_array_elements_text(s.value) scope (value)
        WHERE a.zone = :zone AND a.is_active""",
    # what the entitlement ledger says is given
    "entitlements": """
        SELECT subject, resource, sum(amount) AS granted FROM entitlement_legs
        WHERE zone = :zone AND leg = 'desired' GROUP BY subject, resource HAVING sum(amount) <> 0""",
    # what was let through, as the ledger holds it, and as the access log of the API counts
    "ledger-hours": """
        SELECT to_char(date_trunc('hour', at AT TIME ZONE 'UTC'), 'YYYY-MM-DD"T"HH24:00:00"Z"') AS hour,
               coalesce(server, '') AS server, count(*) AS events FROM ledger.events
        WHERE zone = :zone AND code LIKE 'BW4%' AND at >= :since AND at < :until GROUP BY 1, 2""",
    # what the gateway's workers counted, what the ledger holds of it, and what of that each destination was told
    "gateway-verdicts": f"""
        SELECT h.hour, h.outcome, coalesce(sum(c.verdicts), 0) AS verdicts FROM ({_HOURS}) h
        LEFT JOIN gateway_counts c ON c.zone = :zone AND c.hour = h.hour AND c.outcome = h.outcome GROUP BY 1, 2""",
    "ledger-verdicts": f"""
        SELECT h.hour, h.outcome, coalesce(e.verdicts, 0) AS verdicts FROM ({_HOURS}) h LEFT JOIN (
          SELECT date_trunc('hour', e.at, 'UTC') AS hour, e.outcome, count(*) AS verdicts FROM ledger.events e
          WHERE {_VERDICTS} GROUP BY 1, 2) e USING (hour, outcome)""",
    "gateway-verdicts-owed": f"""
        SELECT s.name AS sink, h.hour, h.outcome, coalesce(sum(c.verdicts), 0) AS verdicts
        FROM (SELECT name FROM ({_SINKS}) told UNION ALL SELECT '(none)') s CROSS JOIN ({_HOURS}) h
        LEFT JOIN gateway_counts c
          ON c.zone = :zone AND c.hour = h.hour AND c.outcome = h.outcome AND s.name <> '(none)'
        GROUP BY 1, 2, 3""",
    "siem-verdicts": f"""
        SELECT s.name AS sink, h.hour, h.outcome, coalesce(e.verdicts, 0) AS verdicts
        FROM (SELECT name FROM ({_SINKS}) told UNION ALL SELECT '(none)') s CROSS JOIN ({_HOURS}) h LEFT JOIN (
          SELECT s.name, date_trunc('hour', e.at, 'UTC') AS hour, e.outcome, count(*) AS verdicts
          FROM ({_SINKS}) s JOIN ledger.events e ON e.seq < s.next_seq
          WHERE {_VERDICTS} AND NOT EXISTS (SELECT FROM siem_dead_letters d WHERE d.sink = s.id AND d.zone = e.zone
            AND d.seq = e.seq AND d.delivered_at IS NULL) GROUP BY 1, 2, 3
        ) e ON e.name = s.name AND e.hour = h.hour AND e.outcome = h.outcome""",
    # how far the ledger reaches, and how far each destination was told of it
    "ledger-end": """
        SELECT s.name AS sink, coalesce(
                 (SELECT max(first + count) FROM ledger.hashes h WHERE h.zone = s.zone AND h.level = 0), 0)
               AS events FROM siem_sinks s WHERE s.zone = :zone AND s.enabled
        UNION ALL
        SELECT '(signed head)', coalesce(max(first + count), 0) FROM ledger.hashes WHERE zone = :zone AND level = 0""",
    "siem-deliveries": """
        SELECT s.name AS sink, c.next_seq AS events, c.updated_at FROM siem_cursors c JOIN siem_sinks s ON s.id = c.sink
        WHERE c.zone = :zone AND s.enabled
        UNION ALL
        SELECT '(signed head)', coalesce(max(size), 0), max(at) FROM ledger.heads WHERE zone = :zone""",
}
"""SQL by name; ``:zone``, ``:since`` and ``:until`` are given."""
