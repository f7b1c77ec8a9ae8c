"""Sending the ledger on: to Splunk, Datadog, syslog, OTLP, webhooks and object stores, nothing missing."""
