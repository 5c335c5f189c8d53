"""The sans-IO machines that decide between regions: routes, summaries, link roles."""
