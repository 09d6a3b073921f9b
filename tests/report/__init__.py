"""From a problem to a line in the log and a mail."""
