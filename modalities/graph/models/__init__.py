"""Graph networks, one system per file."""
