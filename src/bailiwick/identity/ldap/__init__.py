"""A client of LDAP (RFC 4511 to 4515), as small as signing people in needs."""
