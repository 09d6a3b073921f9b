"""The doors for Apache only: the guard for ``Action``, the RewriteMap program, the health check."""
