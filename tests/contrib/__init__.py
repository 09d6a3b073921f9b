"""The limiter inside other libraries."""
