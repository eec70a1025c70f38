"""How the system is run and operated; may import everything, and nothing imports it."""
