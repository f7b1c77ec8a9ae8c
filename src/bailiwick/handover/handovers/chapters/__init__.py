"""The chapters about what finished rooms know: each asks who knows and judges by a rule."""
