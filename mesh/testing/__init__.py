"""The test kit that ships: the simulator, faults and invariants. Imported by tests and, lazily, by `mesh demo` and `mesh bench`."""
