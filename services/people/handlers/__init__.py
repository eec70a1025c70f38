"""Use cases of the people service, by noun: load, decide, write, emit. One function each."""
