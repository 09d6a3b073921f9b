"""What users import: each door alone, and all of them together."""
