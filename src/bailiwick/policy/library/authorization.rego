package sark.authz

allow {
  input.user.role == "admin"
}

allow {
  input.action == "read"
  input.user.role == "viewer"
}
