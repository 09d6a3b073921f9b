"""Scripts that run behind the limiter."""
