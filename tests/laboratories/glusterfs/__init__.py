"""The cluster that deploy/glusterfs makes, on machines that have nothing yet."""
