"""S3 and disks: addresses, clients, files by the same verbs everywhere, what their errors mean, retry with backoff.

Clients of stores are imported here alone (Lance has its own). May import: config, errors.
"""
