"""The benchmarks and the simulation: they run, and notice a false claim."""
