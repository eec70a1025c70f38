"""The whole system on one machine: ``estation up``, ``down``, ``status`` and ``doctor``."""
