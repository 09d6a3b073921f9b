"""The load balancer, for real: two kernels of user-mode-linux in front of a cluster of web servers."""
