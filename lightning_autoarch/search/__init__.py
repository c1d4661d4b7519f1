"""What to build: the space, the proposals, the ledger."""
