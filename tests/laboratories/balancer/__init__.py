"""The real load balancer: two kernels of user-mode-linux in front of a cluster of web servers."""
