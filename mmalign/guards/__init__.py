"""Run-time alarms: failures that would otherwise let the loss fall while nothing is learned."""
