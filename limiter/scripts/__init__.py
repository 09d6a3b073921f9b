"""Runs scripts: supervises them, checks their output, and answers for their failures."""
