"""What clients speak: HTTP, SSE and WebSocket on the events port. Each sees `mesh.node.service` and nothing behind it."""
