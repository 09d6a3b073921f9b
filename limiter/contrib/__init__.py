"""The limiter inside other libraries: each module needs its library, and nobody else loads it."""
