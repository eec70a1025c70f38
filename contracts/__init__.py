"""What the services say to one another: envelope, events, vocabulary, topology, the year's plan.

Imports marshmallow and the standard library only (``generate`` alone also uses apispec and PyYAML: it is a
development tool and no service imports it).
"""
