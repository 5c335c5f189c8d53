"""What may cross a link to another region: roles, rules, and what they do to interest and events. Pure, sans-IO."""
