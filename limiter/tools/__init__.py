"""Commands for people: the command line, the server for trying it out, the compiled bundles."""
