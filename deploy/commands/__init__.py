"""What operators and developers do with a running system; each command in a file of its own."""
