"""The doctor: it tests whether a file system can hold a store."""
