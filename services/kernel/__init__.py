"""Mechanism without one domain noun: what every service stands on. Small enough to read in an hour.

Read in this order: settings, errors, http, mongo, outbox, relay, topology, consumer, inbox.
"""
