"""What the tests found, told per control and host."""
