"""The scripts in deploy/, tested without machines."""
