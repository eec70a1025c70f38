"""Written by another helper of the team right now (started 17:10): leave it to them."""
