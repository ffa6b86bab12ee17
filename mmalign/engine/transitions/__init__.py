"""Learning from single transitions with critics: a store, networks, and one trainer for all algorithms."""
