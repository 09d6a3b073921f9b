"""The cluster as deploy/glusterfs makes it, on machines that have nothing yet."""
