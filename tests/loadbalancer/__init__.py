"""The load balancer, set up by its script on machines of namespaces."""
