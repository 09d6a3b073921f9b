"""From a request to a verdict: the settings, who asks, the limits, and the answer in HTTP terms."""
