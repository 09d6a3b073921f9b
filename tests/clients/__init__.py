"""The conformance kit: clients of one store in all languages, driven by a small program each (docs/store-format.md)."""
