"""Tests: unit/ (no I/O), contract/ (what others rely on), integration/ (real broker and database), e2e/ (all of it)."""
