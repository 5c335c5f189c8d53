"""Between regions: routes, summaries, policy (`core`, sans-IO) and the driver of bridge links (`bridge`)."""
