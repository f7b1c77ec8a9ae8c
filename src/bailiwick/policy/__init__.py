"""May they? Rego policy sets, admission and decisions."""
