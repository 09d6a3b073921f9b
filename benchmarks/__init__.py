"""What the limiter costs beside the calls it cannot avoid, and what a share for each node loses."""
