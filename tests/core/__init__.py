"""The limit itself: arithmetic, store, hits, sweeping; and the laws."""
