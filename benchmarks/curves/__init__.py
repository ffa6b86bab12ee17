"""Every pair objective trained alike on one small model: the table and the figure of docs/objectives."""
