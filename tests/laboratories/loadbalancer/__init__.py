"""The load balancer, set up by its script on machines that are namespaces."""
