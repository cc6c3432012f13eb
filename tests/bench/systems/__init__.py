"""What is compared: one file a system. `base` holds the protocol, `registry` the names. Used by `rounds` and `cli`."""
