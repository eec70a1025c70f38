"""The service that only listens: every event once, the figures it adds up to, the year's plan against them.

Knows contracts, never another service. ``aggregator`` writes; ``service`` and ``exporter`` read; ``rebuild`` proves
that both agree.
"""
