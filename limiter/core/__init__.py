"""The limit itself: its arithmetic, the store that counts hits, and what keeps the store in order."""
