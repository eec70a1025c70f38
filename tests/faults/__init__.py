"""What the system does when its parts fail: faults by seed, a ledger outside the system, and the comparison of both."""
