"""What the end-to-end suites share: the daemon under test, clients, seeded bodies, raw requests."""
