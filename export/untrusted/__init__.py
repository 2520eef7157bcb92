"""Guards against files that strangers made: screening, limits, child processes."""
