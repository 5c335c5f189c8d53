"""Room for what changes or picks events on their way: filter, transform, content route, schema, redact. Nothing yet."""
