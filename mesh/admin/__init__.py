"""The admin port: lists over the whole region, health, metrics, and the few calls that change a node."""
