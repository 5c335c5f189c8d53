"""trio drivers: transports, links, listeners, the HTTP engine. They move bytes and time and decide nothing else."""
