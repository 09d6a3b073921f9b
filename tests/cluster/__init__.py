"""What needs several machines."""
