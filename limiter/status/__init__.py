"""What an administrator looks at: who is near a limit, the store, and what was counted.  It only reads."""
