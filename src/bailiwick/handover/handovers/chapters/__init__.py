"""The chapters that finished rooms write: each asks who knows, and judges by a rule. Nothing is said that is not there."""
