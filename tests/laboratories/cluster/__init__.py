"""Tests that need several machines."""
