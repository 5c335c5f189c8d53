"""The command: one module for each group, imported only when it is used. Plain output first, colour only on a terminal."""
