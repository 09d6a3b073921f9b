"""Reports problems: a line in the log, and a mail."""
