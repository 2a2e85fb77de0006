"""What travels between pixtide's processes: events, requests, replies, outcomes, errors.

Everything here is plain data over pydantic. No I/O, no Kafka, no model and no index is
imported from this package, so any program may import it to speak pixtide's contracts.
"""
