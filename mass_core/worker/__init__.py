"""The worker process and its client: protocol, transport, server. Standard library only."""
