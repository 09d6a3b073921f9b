"""Several machines on this one, of namespaces, with the real programs on them."""
