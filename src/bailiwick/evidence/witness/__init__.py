"""A witness of logs (C2SP tlog-witness): a key and a memory. Another party runs it; it needs no installation."""
