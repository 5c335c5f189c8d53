"""Who a client is, and what it may do: tokens, JWTs and certificates, the access rules, and the audit stream."""
