"""The event paths, their clients and the command line."""
