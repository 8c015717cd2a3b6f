"""Clients in Python that flagjob is compared with; each is a script: URL-PREFIX CODES-FILE DESTINATION WORKERS."""
