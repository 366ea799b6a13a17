"""What an apply would do, told before it: the pure plan of a NestedCluster, and the reading of what is there."""
