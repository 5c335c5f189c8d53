"""Values that every layer shares. Standard library only; nothing here does I/O, reads a clock or rolls dice."""
