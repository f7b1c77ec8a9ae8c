"""Enforce it: Envoy configuration, the check, credential injection, live-stream cutting."""
