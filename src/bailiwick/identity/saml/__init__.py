"""SAML 2.0 as a service provider, under a strict profile: pure protocol, without clock, network or database."""
