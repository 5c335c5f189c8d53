"""One node: its machines composed into one (`machine`), and the trio shell that runs it (`runner`)."""
