"""Room for connectors to databases, brokers and object stores. Nothing yet."""
