"""The sans-IO machines of one node and its region: every decision is taken here, without clock, dice or socket."""
