"""Custody: what a node that stored events owes to whom, and how it gets rid of the debt. Sans-IO."""
